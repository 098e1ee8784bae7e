// What a page shows, read in a world of our own: nothing that the page has replaced is called here.
// An object goes back; texts are bounded by `limit`, in UTF-16 units.
(limit, want) => {
  const SKIPPED = new Set(['SCRIPT', 'STYLE', 'NOSCRIPT', 'TEMPLATE', 'HEAD', 'IFRAME', 'FRAME', 'OBJECT', 'EMBED', 'CANVAS', 'AUDIO', 'VIDEO']);
  const VOID = new Set(['BR', 'HR', 'IMG', 'INPUT', 'WBR', 'COL', 'AREA', 'SOURCE', 'TRACK']);
  const KEPT = ['href', 'src', 'alt', 'title', 'colspan', 'rowspan', 'start', 'type', 'lang', 'dir'];
  const escaped = text => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;');
  const out = {links: [], images: [], hidden: [], shadow: '', html: '', elements: 0, cut: false};
  const parts = [];
  let size = 0;
  const put = text => {
    if (size + text.length > limit) { out.cut = true; return; }
    size += text.length;
    parts.push(text);
  };
  const rgb = text => (text.match(/[\d.]+/g) || []).map(Number);
  // The nearest background that is not transparent; null where a picture may stand behind.
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== 'none') return null;
      const color = rgb(style.backgroundColor);
      if (color.length === 3 || color[3] > 0.5) return color;
    }
    return [255, 255, 255];
  };
  const concealed = (element, style) => {
    if (Number(style.opacity) < 0.05) return 'transparent';
    if (parseFloat(style.fontSize) < 2) return 'too small';
    const color = rgb(style.color);
    if (color.length === 4 && color[3] < 0.05) return 'transparent';
    const box = element.getBoundingClientRect();
    const [x, y] = [scrollX, scrollY];
    if (box.width && box.height && (box.right + x < 0 || box.bottom + y < 0 || box.left + x > 20000)) return 'outside of the page';
    if (box.width <= 1 && box.height <= 1 && style.overflow !== 'visible') return 'clipped away';
    const behind = ground(element);
    if (behind && color.length >= 3 && Math.abs(color[0] - behind[0]) + Math.abs(color[1] - behind[1]) + Math.abs(color[2] - behind[2]) < 12)
      return 'in the color of its background';
    return null;
  };
  // Not recursive: a page may nest as deep as it likes.
  const top = document.body || document.documentElement;
  const stack = top ? [{node: top}] : [];
  while (stack.length) {
    const item = stack.pop();
    if (item.end) { put(item.end); continue; }
    const {node, inherited} = item;
    if (node.nodeType === 3) {
      if (want.includes('html')) put(escaped(node.data));
      if (inherited && node.data.trim() && out.hidden.length < 20) out.hidden.push({text: node.data.trim().slice(0, 200), why: inherited});
      continue;
    }
    if (node.nodeType !== 1 && node.nodeType !== 11) continue;
    let why = inherited, tag = null;
    if (node.nodeType === 1) {
      out.elements += 1;
      if (SKIPPED.has(node.tagName)) continue;
      const style = getComputedStyle(node);
      if (style.display === 'none') continue;
      if (style.visibility === 'hidden' && !node.childElementCount) continue;
      const hasText = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
      if (!why && (hasText || Number(style.opacity) < 0.05)) why = concealed(node, style);
      if (node.tagName === 'A' && node.href && out.links.length < want.links)
        out.links.push({url: String(node.href).slice(0, 4096), text: (node.innerText || node.textContent || '').trim().slice(0, 500), rel: node.rel || ''});
      if (node.tagName === 'IMG' && out.images.length < want.links)
        out.images.push({url: (node.currentSrc || node.src || '').slice(0, 4096), alt: (node.alt || '').slice(0, 500), width: node.naturalWidth, height: node.naturalHeight});
      if (want.includes('html')) {
        tag = node.tagName.toLowerCase();
        if (!/^[a-z][a-z0-9-]*$/.test(tag)) tag = 'span';
        let text = '<' + tag;
        for (const name of KEPT) {
          if (!node.hasAttribute(name)) continue;
          let value = node.getAttribute(name);
          if (name === 'href' || name === 'src') value = String(node[name] && node[name].baseVal || node[name] || value);
          if (value.startsWith('data:')) continue;
          text += ` ${name}="${escaped(value.slice(0, 4096))}"`;
        }
        put(text + '>');
        if (VOID.has(node.tagName)) continue;
        stack.push({end: `</${tag}>`});
      }
    }
    let children = node.shadowRoot ? node.shadowRoot.childNodes : node.childNodes;
    if (node.shadowRoot) {
      for (const child of node.shadowRoot.children)
        if (child.innerText && out.shadow.length < limit) out.shadow += child.innerText + '\n';
    }
    if (node.tagName === 'SLOT' && node.assignedNodes().length) children = node.assignedNodes();
    for (let index = children.length - 1; index >= 0; index--) stack.push({node: children[index], inherited: why});
  }
  out.html = parts.join('');
  const text = document.body ? document.body.innerText : document.documentElement ? document.documentElement.textContent : '';
  out.text = (text || '').slice(0, limit);
  if (out.shadow) out.text += (out.text ? '\n' : '') + out.shadow.slice(0, limit);
  out.whole = (text || '').length;
  out.title = document.title.slice(0, 1000);
  out.url = location.href.slice(0, 8192);
  if (want.includes('source')) out.source = top ? (document.doctype ? '<!DOCTYPE html>\n' : '') + document.documentElement.outerHTML.slice(0, limit) : '';
  if (want.includes('metadata')) {
    const meta = {};
    for (const element of [...document.querySelectorAll('meta[name], meta[property]')].slice(0, 100)) {
      const name = (element.getAttribute('name') || element.getAttribute('property')).slice(0, 100);
      meta[name] = (element.getAttribute('content') || '').slice(0, 2000);
    }
    const canonical = document.querySelector('link[rel=canonical]');
    out.metadata = {
      language: top && document.documentElement.lang || null, charset: document.characterSet,
      type: document.contentType, canonical: canonical ? canonical.href : null, meta,
      data: [...document.querySelectorAll('script[type="application/ld+json"]')].slice(0, 10).map(element => element.textContent.slice(0, 10000)),
    };
  }
  return out;
}
