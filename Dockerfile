# For nodes with NVIDIA GPUs. CUDA's libraries come with JAX; the node brings the driver and NVIDIA's container toolkit.
#
#   docker build --tag=drifting .
#   docker run --gpus=all --volume=$PWD:/workspace drifting train --config=digits:tiny --workdir=runs/tiny
FROM python:3.11-slim

WORKDIR /opt/drifting
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY drifting drifting
COPY configs configs
RUN python -m pip install --no-cache-dir -c constraints.txt '.[gpu]'

# What runs is no root, and may be any user. Compiled programs and downloads may be kept in a volume.
RUN useradd --uid=1000 --create-home drifting && mkdir --mode=1777 /workspace /tmp/cache
ENV XDG_CACHE_HOME=/tmp/cache NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER drifting
WORKDIR /workspace
ENTRYPOINT ["drifting"]
