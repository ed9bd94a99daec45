# recbole-hellm on NVIDIA GPUs. The machine needs the driver and the NVIDIA Container Toolkit.
# See docs/installing.md, Docker. From the repository's root:
#   docker build -f docker/cuda.Dockerfile -t recbole-hellm:cuda .
FROM python:3.12.8-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml setup.cfg MANIFEST.in README.md CHANGELOG.md LICENSE ./
COPY recbole_hellm recbole_hellm
COPY dataset/sample dataset/sample
RUN pip install --no-cache-dir build==1.2.2 \
    && python -m build --wheel --outdir /wheels

FROM python:3.12.8-slim-bookworm
# CUDA comes with PyTorch's wheel: CUDA 13 with this one. For older drivers, --build-arg TORCH=2.6.0
# takes one with CUDA 12.4.
ARG TORCH=2.13.0
# Triton, which `--compile=True` uses, needs a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
# RecBole comes without its dependencies, since its ray has no wheel for this Python. The wheel's
# requirements are those that setup.cfg allows.
# hadolint ignore=DL3013
RUN wheel="$(echo /wheels/*.whl)" \
    && pip install --no-cache-dir "torch==${TORCH}" "${wheel}[text,image,tune,gguf,quant]" \
    && pip install --no-cache-dir --no-deps recbole==1.2.1
RUN useradd --uid 1000 --create-home --home-dir /data hellm
# Caches of models and of plots go to the volume, also for a user that `docker run --user` names.
ENV HOME=/data USER=hellm \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /data
VOLUME /data
ENTRYPOINT ["recbole-hellm"]
