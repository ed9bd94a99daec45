# recbole-hellm on a CPU.
# See docs/installing.md, Docker. From the repository's root:
#   docker build -f docker/cpu.Dockerfile -t recbole-hellm:cpu .
FROM python:3.12.8-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml setup.cfg MANIFEST.in README.md CHANGELOG.md LICENSE ./
COPY recbole_hellm recbole_hellm
COPY dataset/sample dataset/sample
RUN pip install --no-cache-dir build==1.2.2 \
    && python -m build --wheel --outdir /wheels

FROM python:3.12.8-slim-bookworm
ARG TORCH=2.13.0
# PyTorch's own index has builds without CUDA; the one on PyPI takes several GB more.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==${TORCH}"
COPY --from=build /wheels /wheels
# RecBole comes without its dependencies, since its ray has no wheel for this Python. The wheel's
# requirements are those that setup.cfg allows.
# hadolint ignore=DL3013
RUN wheel="$(echo /wheels/*.whl)" \
    && pip install --no-cache-dir "${wheel}[text,image,tune,gguf]" \
    && pip install --no-cache-dir --no-deps recbole==1.2.1
RUN useradd --uid 1000 --create-home --home-dir /data hellm
# Caches of models and of plots go to the volume, also for a user that `docker run --user` names.
ENV HOME=/data USER=hellm
USER 1000
WORKDIR /data
VOLUME /data
ENTRYPOINT ["recbole-hellm"]
