"""How much memory the devices of this process have needed."""

import resource
import sys

import jax


def peak_memory() -> float:
    """The most memory in use at a time so far, in GB (1e9 bytes), of the device of this process that needed the most.

    Where the device is the CPU, its memory is this process's own.
    """
    found = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    if any(found):
        return max(found) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
