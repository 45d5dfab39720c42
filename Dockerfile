# docker build -t era-kernels .
# docker run --rm -p 127.0.0.1:8787:8787 -v era:/data -e ERA_API_TOKENS="$(openssl rand -hex 32)" era-kernels
#
# The server listens on all addresses of the container, and refuses to do so without a token.

# With `--device /dev/net/tun` sessions with internet access send packets, too, by pasta (passt).

# What sessions find installed: `--build-arg EXTRAS=` leaves numpy, pandas and matplotlib out, and is
# 200 MB smaller.
ARG EXTRAS=[science]

FROM python:3.11-slim AS build
ARG EXTRAS
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY era_kernels era_kernels
COPY kernelspecs kernelspecs
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".$EXTRAS"

FROM python:3.11-slim
ARG EXTRAS
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "era-kernels$EXTRAS" \
    && PIP_NO_CACHE_DIR=1 era-kernels install --require-all \
    && apt-get update -qq && apt-get install -y -qq --no-install-recommends passt > /dev/null \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin era \
    && install -d -o era -m 700 /data
USER era
ENV ERA_HOST=0.0.0.0 ERA_PORT=8787 ERA_DATA_DIR=/data
VOLUME /data
EXPOSE 8787
HEALTHCHECK --start-period=30s --interval=15s --timeout=5s CMD ["python", "-c", \
    "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"ERA_PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["era-kernels"]
CMD ["serve"]
