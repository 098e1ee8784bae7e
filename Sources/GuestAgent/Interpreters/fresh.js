// A node of the job's own that reports its value and exception: started by the guest agent as
// `node fresh.js main.js …` in the place of `node main.js …`.
'use strict';
const path = require('path');
const { run } = require('./_mayfly_values.js');

const main = path.resolve(process.argv[2]);
process.argv.splice(1, 2, main);
for (const name of Object.keys(require.cache)) delete require.cache[name];
run(main);
