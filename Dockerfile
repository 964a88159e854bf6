# Two stages: the tools that build stay behind, the image has Python, one environment and a user.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/proxy
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
# What else of pyproject.toml's extras is wanted: `ui,templates` has the templates' pictures too.
ARG EXTRAS=ui
RUN /opt/proxy/bin/pip install --no-cache-dir --disable-pip-version-check ".[$EXTRAS]"

FROM python:3.13-slim
LABEL org.opencontainers.image.title="comfy-cloud-proxy" \
      org.opencontainers.image.description="A local ComfyUI API whose workflows run on Comfy Cloud" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin proxy \
    && install --directory --owner=proxy --group=proxy --mode=0700 /data
COPY --from=build /opt/proxy /opt/proxy

# A container's own loopback is of no use to others, hence 0.0.0.0. The proxy refuses it until
# --insecure-allow-anyone or COMFY_PROXY_INSECURE_ALLOW_ANYONE=1 says that the network is private.
# Docker kills ten seconds after SIGTERM, so running requests have a little less to finish.
# Uploads under way are files without a name: in the volume, since a tmpfs would be memory.
ENV PATH=/opt/proxy/bin:$PATH \
    TMPDIR=/data \
    COMFY_PROXY_HOST=0.0.0.0 \
    COMFY_PROXY_PORT=8188 \
    COMFY_PROXY_DATA_DIR=/data \
    COMFY_PROXY_LOG_FORMAT=json \
    COMFY_PROXY_SHUTDOWN_TIMEOUT=8
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8188
HEALTHCHECK --interval=30s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['COMFY_PROXY_PORT']), timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["comfy-cloud-proxy"]
CMD ["serve"]
