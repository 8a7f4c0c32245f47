# A small image for a CPU, without root: docker build -t marl . && docker run --rm -v "$PWD/runs:/marl/runs" marl
# What follows the image's name replaces the default command: docker run --rm marl marl-evaluate simple_reference --pretrained
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY envs envs
COPY marl marl
RUN pip install --no-cache-dir build==1.3.0 && python -m build --wheel --outdir /wheels

FROM python:3.12-slim
# A CPU build of torch leaves out the CUDA libraries, which are most of the default one. Where it can be had is said by
# torch's page on installing: docker build --build-arg TORCH_INDEX=ADDRESS .
ARG TORCH_INDEX=
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch==2.13.0 \
    && pip install --no-cache-dir /wheels/*.whl \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 marl \
    && install --directory --owner marl /marl /marl/runs
USER marl
WORKDIR /marl
# No display: pygame and matplotlib draw into memory.
ENV SDL_VIDEODRIVER=dummy MPLBACKEND=Agg PYTHONUNBUFFERED=1
CMD ["marl-train", "--env", "simple_speaker_listener", "--device", "cpu"]
