# A small image for a CPU, without root:
#   docker build -t marl .
#   mkdir -p runs && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/marl/runs" marl
# The directory is made first, since Docker would make it root's; --user makes the runs yours, whatever your number is.
# What follows the image's name replaces the default command: docker run --rm marl marl-evaluate simple_reference --pretrained
FROM python:3.12-slim AS build
WORKDIR /source
RUN pip install --no-cache-dir build==1.3.0
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY envs envs
COPY marl marl
RUN python -m build --wheel --outdir /wheels

FROM python:3.12-slim
# A CPU build of torch leaves out the CUDA libraries, which are most of the default one. Where it can be had is said by
# torch's page on installing: docker build --build-arg TORCH_INDEX=ADDRESS .
ARG TORCH_INDEX=
# Before the package, which changes more often than torch does: a new build takes this layer as it is. Empty, the variable
# is as good as not set.
RUN PIP_INDEX_URL="${TORCH_INDEX}" pip install --no-cache-dir torch==2.13.0 \
    && useradd --create-home --uid 1000 marl \
    && install --directory --owner marl /marl /marl/runs
# No display: pygame and matplotlib draw into memory. Caches go where every user may write, also one without a home.
ENV SDL_VIDEODRIVER=dummy MPLBACKEND=Agg PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels pip install --no-cache-dir /wheels/*.whl
USER 1000
WORKDIR /marl
CMD ["marl-train", "--env", "simple_speaker_listener", "--device", "cpu"]
