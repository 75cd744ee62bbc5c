"""The memory plugin of CloudQuery's Python SDK, as a process of its own.

Three tables (`table_1`, incremental, with the child `table_1_relation_1`; `table_2`), fifteen rows,
one row in each message. What it sends is the SDK's business: nothing of it is written here.
"""

import sys

from cloudquery.sdk import serve
from cloudquery.sdk.internal.memdb import MemDB

if __name__ == "__main__":
    serve.PluginCommand(MemDB()).run(sys.argv[1:])
