# The model server alone: no MLflow, no training libraries. Needs BuildKit, no `# syntax` image is pulled.
#
#   docker build -f docker/server.Dockerfile -t mlplatform-server .
#
# Behind a company's index or certificate authority, which stay out of every layer of the result:
#
#   docker build ... --build-arg PIP_INDEX_URL=https://index.example/simple --secret id=ca,src=ca.pem .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/venv
COPY docker/server-requirements.txt /tmp/requirements.txt
# Tests and headers of numpy, scipy and scikit-learn stay behind: 62 MB.
RUN --mount=type=secret,id=ca --mount=type=cache,target=/root/.cache/pip \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    /tools/bin/pip --python /opt/venv/bin/python install --requirement /tmp/requirements.txt \
    && find /opt/venv -type d \( -name tests -o -name include \) -prune -exec rm -rf {} +
# More packages, with their versions: "pandas==3.1.1" for scikit-learn pipelines that pick columns by name. A step of its
# own, so that images which differ in it share the one before; what does not go with it is refused.
ARG EXTRA_PACKAGES=""
RUN --mount=type=secret,id=ca --mount=type=cache,target=/root/.cache/pip \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    # shellcheck disable=SC2086
    [ -z "${EXTRA_PACKAGES}" ] || { \
    /tools/bin/pip --python /opt/venv/bin/python install --requirement /tmp/requirements.txt ${EXTRA_PACKAGES} \
    && find /opt/venv -type d \( -name tests -o -name include \) -prune -exec rm -rf {} + ; }
COPY mlplatform /app/mlplatform
RUN python3 -m compileall -q /app

FROM ${BASE_IMAGE}
ARG VERSION=""
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
LABEL org.opencontainers.image.title="mlplatform model server" \
      org.opencontainers.image.description="Answers MLflow's scoring protocol and the Open Inference Protocol" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER 10001:10001
# The loopback address of the container itself, whichever way the port is published.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-P", "-m", "mlplatform.serving.alive"]
ENTRYPOINT ["python", "-P", "-m", "mlplatform.serving.main", "--log-style", "json"]
CMD ["--folder", "/endpoint", "--port", "8080"]
