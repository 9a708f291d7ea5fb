"""Records libCacheSim's hit ratios for a trace, for crates/cache/tests/policies.rs to compare ours with.

    python3 -m venv venv && venv/bin/pip install libcachesim==0.3.5
    orlop cache simulate --seed 7 --blobs 3000 --requests 30000 --write trace.csv -o json
    venv/bin/python libcachesim.py trace.csv ROOM_BYTES...      (the rooms that the line before tells)
"""

import json
import sys

import libcachesim as lcs

fields = lcs.ReaderInitParam(
    has_header=False, has_header_set=True, delimiter=",", obj_id_is_num=True, obj_id_is_num_set=True
)
fields.time_field, fields.obj_id_field, fields.obj_size_field = 1, 2, 3

caches = []
for room in map(int, sys.argv[2:]):
    for name, policy in [("LRU", lcs.LRU), ("S3-FIFO", lcs.S3FIFO), ("GDSF", lcs.GDSF)]:
        trace = lcs.TraceReader(trace=sys.argv[1], trace_type=lcs.TraceType.CSV_TRACE, reader_init_params=fields)
        misses, missed_bytes = policy(cache_size=room).process_trace(trace)
        caches.append(
            {
                "policy": name,
                "room_bytes": room,
                "hit_ratio": round(1 - misses, 5),
                "byte_hit_ratio": round(1 - missed_bytes, 5),
            }
        )
print(json.dumps(caches, indent=2))
