"""What the allocator of a worker is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlplatform.serving.models.memory import ARENAS

COUNT_HEAPS = """
import ctypes, sys, threading, xml.etree.ElementTree as tree
from pathlib import Path
from mlplatform.serving.models.memory import steady_heap

if sys.argv[1] == "steady":
    steady_heap()
libc, met = ctypes.CDLL(None), threading.Barrier(9)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

def take():
    libc.malloc(100_000)
    met.wait()
    met.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
met.wait()
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
stream = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, stream)
libc.fclose(stream)
met.wait()
print(len(tree.parse(sys.argv[2]).findall("heap")))
"""


def heaps(how: str, file: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT_HEAPS, how, file], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_eight_threads_share_two_heaps(tmp_path: Path) -> None:
    assert heaps("steady", f"{tmp_path}/steady.xml") <= ARENAS
    assert heaps("as it is", f"{tmp_path}/as_it_is.xml") > ARENAS, "the test would not see a heap a thread"
