// The memory plugin of CloudQuery's JavaScript SDK, as a process of its own: table1, table2 and
// table3 with the child table3_child1, eleven rows, `_cq_id` and `_cq_parent_id` as the SDK makes
// them. The SDK does not export it, so it is loaded by its path below HIGHWATER_SDK_NODE, which is
// the folder that holds node_modules.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const folder = process.env.HIGHWATER_SDK_NODE;
if (!folder) {
  console.error('HIGHWATER_SDK_NODE is not set: it names the folder that holds node_modules');
  process.exit(1);
}
const main = join(folder, 'node_modules/@cloudquery/plugin-sdk-javascript/dist/main.js');
await import(pathToFileURL(main).href);
