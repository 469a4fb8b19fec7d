# The whole of mlplatform with MLflow: the job runner, the command line, and MLflow's server. Needs BuildKit.
#
#   docker build -f docker/control.Dockerfile -t mlplatform-control .
#   docker build ... --build-arg EXTRA_PACKAGES="torch==2.13.0" .     # PyTorch models, a gigabyte more
#
# PIP_INDEX_URL and the secret `ca` as in server.Dockerfile.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL=""
ARG EXTRA_PACKAGES=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/venv
COPY docker/control-requirements.txt /tmp/requirements.txt
RUN --mount=type=secret,id=ca --mount=type=cache,target=/root/.cache/pip \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    # shellcheck disable=SC2086
    /tools/bin/pip --python /opt/venv/bin/python install --requirement /tmp/requirements.txt ${EXTRA_PACKAGES} \
    && find /opt/venv -type d \( -name tests -o -name include \) -prune -exec rm -rf {} +
COPY pyproject.toml README.md LICENSE /src/
COPY migrations /src/migrations
COPY docker /src/docker
COPY mlplatform /src/mlplatform
# What it needs is installed already, but for torch.
RUN --mount=type=secret,id=ca --mount=type=cache,target=/root/.cache/pip \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    /tools/bin/pip --python /opt/venv/bin/python install --no-deps /src

FROM ${BASE_IMAGE}
ARG VERSION=""
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MLFLOW_DISABLE_TELEMETRY=true
COPY --from=build /opt/venv /opt/venv
LABEL org.opencontainers.image.title="mlplatform control plane" \
      org.opencontainers.image.description="Promotes, deploys, watches and rolls back what MLflow tracks" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# Owned by who uses them, so that new volumes mounted there are too.
RUN useradd --uid 10001 --no-create-home mlplatform \
    && install -d -o 10001 -g 10001 /project /artifacts /var/lib/mlplatform /var/lib/mlplatform/servers
WORKDIR /project
USER 10001:10001
ENTRYPOINT ["mlplatform"]
CMD ["schedule", "run"]
