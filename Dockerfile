# Two stages: the tools that build stay behind. The image has Python, one environment and a user.
#
#   docker build -t comfy-cloud-proxy .                              the API and the dashboard
#   docker build -t comfy-cloud-proxy:ui --build-arg EXTRAS=ui .     ComfyUI's web interface too
#
# The base is named by its tag, so that a build has the latest security fixes of Debian and Python.
# For the same base in every build: --build-arg BASE=python:3.13-slim@sha256:...
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/comfy-cloud-proxy
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements ./requirements
RUN /opt/build/bin/pip install --quiet --require-hashes -r requirements/build.lock
# Extras of pyproject.toml, separated by commas: `ui,templates` has the templates' pictures too.
ARG EXTRAS=
RUN /opt/build/bin/pip --python /opt/comfy-cloud-proxy/bin/python install --quiet --require-hashes \
        --only-binary :all: -r requirements/run.lock \
        $(echo "$EXTRAS" | tr , '\n' | sed '/./s|.*|-r requirements/&.lock|')
# The sources come last: a change to them installs nothing else anew.
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY proxy ./proxy
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && /opt/build/bin/pip --python /opt/comfy-cloud-proxy/bin/python install --quiet --no-deps \
        /tmp/wheel/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="comfy-cloud-proxy" \
      org.opencontainers.image.description="A local ComfyUI API whose workflows run on Comfy Cloud" \
      org.opencontainers.image.licenses="MIT"
# Debian has a user `proxy` already. Nothing is installed in a container, so pip goes.
# Volumes at /input and /output are shared with a program that may run as another user.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin comfy \
    && install --directory --owner=comfy --group=comfy --mode=0700 /data \
    && install --directory --owner=comfy --group=comfy --mode=0777 /input /output \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip \
        /usr/local/lib/python3*/site-packages/pip*
COPY --from=build /opt/comfy-cloud-proxy /opt/comfy-cloud-proxy

# The loopback address of a container cannot be reached from outside, hence 0.0.0.0. The proxy refuses
# it until it has members or COMFY_PROXY_INSECURE_ALLOW_ANYONE=1 says that the network is private.
# `container` tells programs that they run in one.
# Uploads under way are files without a name in the volume, since a tmpfs would be memory.
ENV PATH=/opt/comfy-cloud-proxy/bin:$PATH \
    container=oci \
    TMPDIR=/data \
    COMFY_PROXY_HOST=0.0.0.0 \
    COMFY_PROXY_PORT=8188 \
    COMFY_PROXY_DATA_DIR=/data \
    COMFY_PROXY_LOG_FORMAT=json
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8188
HEALTHCHECK --interval=30s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['COMFY_PROXY_PORT']), timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["comfy-cloud-proxy"]
CMD ["serve"]
