-- Chapter 5: the network of jobs: how far operators let it reach, and what jobs did there. The story
-- is in v1_1_tables.sql.
--
-- A job names in its payload what it wants to reach, {"network": {"allow": ["host:port", …]}}, and gets
-- of that what its queue and tenant may have: the ceiling. Without a ceiling that is nothing.
--
--     select mayfly.allow_egress('default', '', array['pypi.org:443', '*.pythonhosted.org:443']);
--
-- A host may be named with methods and paths, 'GET https://api.test/v1/*'. In a ceiling that is the operator's
-- wish that workers end TLS there: they read each request, and jobs see a certificate of their worker's.
--
-- A name that leads to an address inside, of this host, of a private network, is refused even so, until
-- the ceiling names the network, too. Workers ask for a ceiling only when a job wants something, and
-- write rows only when a job did something: who uses no network pays nothing.

create table mayfly.egress_ceiling (
    queue    text not null,              -- '*': any that has no row of its own
    tenant   text not null,
    allow    text[] not null,            -- host:port, *.host:port, GET https://host/path/*
    networks cidr[] not null,            -- not globally routable, and allowed all the same
    set_at   timestamptz not null default clock_timestamp(),
    set_by   name not null,
    primary key (queue, tenant)
);

-- What jobs did on the network: one row for each of an attempt's different destinations and decisions.
create table mayfly.egress (
    id             bigint not null,      -- the job
    attempt        smallint not null,
    host           text not null,        -- as the job called it
    port           int not null,
    address        text not null,        -- it was connected to; '' for none
    verdict        text not null,        -- 'allowed', 'denied', or 'failed': nobody's decision
    reason         text not null,        -- why it was denied or failed, or ended early; or ''
    rule           text not null,        -- what an allow-list would need, where that would help; or ''
    method         text not null,        -- of a request that the worker has read; or ''
    path           text not null,        -- likewise, without its query
    capability     text not null,        -- by which the request was made, or asked for; or ''
    count          bigint not null,      -- how often
    bytes_sent     bigint not null,
    bytes_received bigint not null,
    at             timestamptz not null default clock_timestamp(),   -- of the last report
    primary key (id, attempt, host, port, address, verdict, reason, rule, method, path, capability)
) partition by range (id);

create function mayfly.egress_rows_max() returns bigint language sql immutable parallel safe as
$$ select 500::bigint $$;

-- Refuses what is no list of destinations. Strict about the form, so that mistakes are seen early;
-- what a name means is for workers to say.
create function mayfly.check_destinations(allow text[], place text) returns void
language plpgsql stable as $$
declare
    entry text;
    n int := 0;
    why constant text := 'Write host:port or *.host:port, such as pypi.org:443; without a port it is 443 '
        'and 80. With methods and path it is GET https://host/path/*. A list has at most 256 entries.';
begin
    if cardinality(allow) > 256 then
        perform mayfly.refuse('MF002', format('%s has %s entries', place, cardinality(allow)), why);
    end if;
    foreach entry in array allow loop
        if entry is null or octet_length(entry) > 300
                or entry !~ ('^((\*|[A-Z]{1,32}(,[A-Z]{1,32})*) https?://)?'
                    || '(\[[0-9A-Fa-f:.]+\]|\*|(\*\.)?[^][:space:][:cntrl:]*/:@?#\\[]+)'
                    || '(:[1-9][0-9]{0,4})?(/[!-~]*)?$')
                or (position('/' in entry) > 0) <> (entry ~ ' https?://[^/]+/')
                or substring(entry from '^(?:\S+ https?://)?[^/]*:([0-9]{1,5})(?:/|$)')::int > 65535 then
            perform mayfly.refuse('MF002', format('%s[%s] is %s: that is no destination', place, n,
                coalesce(quote_literal(left(entry, 100)), 'no text')), why);
        end if;
        n := n + 1;
    end loop;
end $$;

-- The part of a payload that says where a job wants to go. Part of mayfly.check_job.
create function mayfly.check_network(kind text, payload jsonb) returns void language plpgsql stable as $$
declare
    wanted jsonb := payload #> '{network,allow}';
begin
    if not payload ? 'network' or kind not in ('code', 'browse') then
        return;
    elsif jsonb_typeof(payload -> 'network') <> 'object' then
        perform mayfly.refuse('MF002', 'the payload''s network is not an object',
            'Write {"network": {"allow": ["host:port"]}}.');
    elsif wanted is null then
        return;
    elsif jsonb_typeof(wanted) <> 'array'
            or jsonb_path_exists(wanted, 'strict $[*] ? (@.type() != "string")') then
        perform mayfly.refuse('MF002', 'the payload''s network.allow is not a list of texts',
            'Write {"network": {"allow": ["host:port"]}}.');
    end if;
    perform mayfly.check_destinations(array(select jsonb_array_elements_text(wanted)),
        'the payload''s network.allow');
end $$;

-- -------------------------------------------------------------------------------------------------
-- For operators

create function mayfly.check_egress_place(queue text, tenant text) returns void
language plpgsql stable as $$
begin
    if queue is null or queue <> '*' and queue !~ '^[a-z0-9][a-z0-9_.-]{0,62}$' then
        perform mayfly.refuse('MF001', format('queue %s is not a name of a queue',
            coalesce(quote_literal(queue), 'null')), 'Use the name of a queue, or ''*'' for the others.');
    elsif tenant is null or length(tenant) > 128 or tenant ~ '[[:cntrl:]]' then
        perform mayfly.refuse('MF001', 'the tenant is null, too long or has control characters',
            'Use the name of a tenant, '''' for the unnamed one, or ''*'' for the others.');
    end if;
end $$;

-- One way to write a destination: hosts in lower case; methods and paths are what they are.
create function mayfly.egress_entry(entry text) returns text language sql immutable parallel safe as
$$ select case when position(' ' in entry) = 0 then lower(entry) else
    substring(entry from '^\S+ ') || lower(substring(entry from '^\S+ (https?://[^/]*)'))
        || coalesce(substring(entry from '^\S+ https?://[^/]*(/.*)$'), '') end $$;

-- Lets jobs of a queue and tenant that ask for it reach these destinations, besides those they may reach
-- already, and `networks` that are not globally routable. '*' is every queue, or tenant, that has no
-- ceiling of its own. Holds for attempts that start from now on.
create function mayfly.allow_egress(
    queue text, tenant text, allow text[], networks cidr[] default '{}'
) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform mayfly.check_egress_place(queue, tenant);
    perform mayfly.check_destinations(coalesce(allow, '{}'), 'allow');
    insert into mayfly.egress_ceiling as c (queue, tenant, allow, networks, set_by)
    values (queue, tenant, array(select distinct mayfly.egress_entry(x) from unnest(allow) x order by 1),
        coalesce(networks, '{}'), mayfly.caller())
    on conflict on constraint egress_ceiling_pkey do update set
        allow = array(select distinct x from unnest(c.allow || excluded.allow) x order by 1),
        networks = array(select distinct x from unnest(c.networks || excluded.networks) x order by 1),
        set_at = clock_timestamp(), set_by = excluded.set_by;
    perform mayfly.check_destinations(c.allow, 'the ceiling') from mayfly.egress_ceiling c
        where c.queue = allow_egress.queue and c.tenant = allow_egress.tenant;
end $$;

-- Takes destinations and networks out of a ceiling; without them the whole ceiling. Answers whether there
-- was one.
create function mayfly.deny_egress(
    queue text, tenant text, deny text[] default null, networks cidr[] default null
) returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform mayfly.check_egress_place(queue, tenant);
    if deny is null and networks is null then
        delete from mayfly.egress_ceiling c
            where c.queue = deny_egress.queue and c.tenant = deny_egress.tenant;
    else
        update mayfly.egress_ceiling c set
            allow = array(select x from unnest(c.allow) x
                where x <> all (array(select mayfly.egress_entry(d) from unnest(deny) d)) order by 1),
            networks = array(select x from unnest(c.networks) x
                where x <> all (coalesce(deny_egress.networks, '{}')) order by 1),
            set_at = clock_timestamp(), set_by = mayfly.caller()
        where c.queue = deny_egress.queue and c.tenant = deny_egress.tenant;
    end if;
    return found;
end $$;

-- -------------------------------------------------------------------------------------------------
-- For everybody: how far it reaches, and what was done

-- The one ceiling that counts: of this queue and tenant, else of the queue, else of the tenant, else of all.
create function mayfly.find_ceiling(queue text, tenant text) returns setof mayfly.egress_ceiling
language sql stable as $$
    select c.* from mayfly.egress_ceiling c
    where c.queue in (find_ceiling.queue, '*') and c.tenant in (find_ceiling.tenant, '*')
    order by c.queue = '*', c.tenant = '*' limit 1
$$;

-- How far jobs of this queue and tenant may reach; no row: nowhere. A producer sees that of its tenants.
create function mayfly.egress_ceiling(queue text default 'default', tenant text default '')
returns setof mayfly.egress_ceiling language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
begin
    perform mayfly.check_tenant(tenant);
    return query select * from mayfly.find_ceiling(queue, tenant);
end $$;

-- What a job's attempts did on the network, in their order.
create function mayfly.get_egress(id bigint) returns setof mayfly.egress language plpgsql stable
security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform mayfly.check_job_id(id);
    return query select e.* from mayfly.egress e where e.id = get_egress.id
        order by e.attempt, e.at, e.host, e.port, e.verdict;
end $$;

-- -------------------------------------------------------------------------------------------------
-- For workers

-- The ceiling of an attempt that is held; always one row.
create function mayfly.get_ceiling(
    worker bigint, secret uuid, token bigint, out queue text, out tenant text, out allow text[],
    out networks text[]
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    held mayfly.running := mayfly.check_held(worker, secret, token);
begin
    queue := held.queue;
    tenant := held.tenant;
    select c.allow, c.networks::text[] into allow, networks
        from mayfly.find_ceiling(held.queue, held.tenant) c;
    allow := coalesce(allow, '{}');
    networks := coalesce(networks, '{}');
end $$;

-- Adds to what an attempt did: [{host, port, address, verdict, reason, rule, method, path,
-- capability, count, sent, received}, …].
-- What goes beyond the rows that an attempt may have is summed up in one of the host ''.
create function mayfly.report_egress(worker bigint, secret uuid, token bigint, records jsonb)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    held mayfly.running := mayfly.check_held(worker, secret, token);
    here constant smallint := (held.tries).attempt;
    free bigint := mayfly.egress_rows_max()
        - (select count(*) from mayfly.egress e where e.id = held.id and e.attempt = here);
begin
    if jsonb_typeof(records) is distinct from 'array' or jsonb_array_length(records) > 10000 then
        perform mayfly.refuse('MF001', 'these are no records of a job''s network',
            'Send a list of at most 10000.');
    end if;
    insert into mayfly.egress as e (id, attempt, host, port, address, verdict, reason, rule, method, path,
        capability, count, bytes_sent, bytes_received)
    select held.id, here, k.host, k.port, k.address, k.verdict, k.reason, k.rule, k.method, k.path,
        k.capability, sum(k.count), sum(k.sent), sum(k.received)
    from (
        select s.count, s.sent, s.received, s.verdict,
            case when s.fits then s.host else '' end, case when s.fits then s.port else 0 end,
            case when s.fits then s.address else '' end, case when s.fits then s.reason else '' end,
            case when s.fits then s.rule else '' end, case when s.fits then s.method else '' end,
            case when s.fits then s.path else '' end, case when s.fits then s.capability else '' end
        from (
            select r.*, exists (select from mayfly.egress o where o.id = held.id and o.attempt = here
                    and o.host = r.host and o.port = r.port and o.address = r.address
                    and o.verdict = r.verdict and o.reason = r.reason and o.rule = r.rule
                    and o.method = r.method and o.path = r.path and o.capability = r.capability)
                or dense_rank() over (order by r.host, r.port, r.address, r.verdict, r.reason, r.rule,
                    r.method, r.path, r.capability) <= free fits
            from (
                select t.count, t.sent, t.received, left(t.host, 255) host, t.port,
                    left(t.address, 64) address, t.verdict, left(t.reason, 300) reason,
                    left(t.rule, 300) rule, left(coalesce(t.method, ''), 32) method,
                    left(coalesce(t.path, ''), 255) path, left(coalesce(t.capability, ''), 63) capability
                from jsonb_to_recordset(records) t (host text, port int, address text, verdict text,
                    reason text, rule text, method text, path text, capability text, count bigint,
                    sent bigint, received bigint)
            ) r
        ) s
    ) k (count, sent, received, verdict, host, port, address, reason, rule, method, path, capability)
    group by k.host, k.port, k.address, k.verdict, k.reason, k.rule, k.method, k.path, k.capability
    on conflict (id, attempt, host, port, address, verdict, reason, rule, method, path, capability)
    do update set
        count = e.count + excluded.count, bytes_sent = e.bytes_sent + excluded.bytes_sent,
        bytes_received = e.bytes_received + excluded.bytes_received, at = clock_timestamp();
end $$;
