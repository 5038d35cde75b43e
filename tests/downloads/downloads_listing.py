"""A program that lists a bucket into a journal, until it is killed.

python downloads_listing.py ENDPOINT DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from downloads_rig import downloads

if __name__ == "__main__":
    with downloads(Path(sys.argv[2])) as d:
        d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=sys.argv[1])
