# One image for workers, the sweep and factories. `docker build -t claim-broker .`
FROM python:3.11-slim-bookworm AS build
RUN pip install --no-cache-dir 'uv>=0.5'
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /src
RUN uv venv /opt/broker
# What we depend on changes less often than what we write: a layer of its own.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/broker/bin/python --requirements pyproject.toml --extra azure
COPY README.md ./
COPY datastore ./datastore
COPY broker ./broker
COPY workers ./workers
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/broker/bin/python --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --home-dir /data --no-log-init broker \
    && install --directory --owner broker --group broker --mode 0700 /data
COPY --from=build /opt/broker /opt/broker
ENV PATH=/opt/broker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BROKER_STATE_DIR=/data
# A named volume mounted here takes over the owner: the SQLite datastore of docker-compose.yml is shared this way.
WORKDIR /data
USER 10001:10001
CMD ["broker", "worker"]
