# The engine as an image: hashed dependencies first, those of the extras otel and postgres among them, then the code; run by
# a user without rights.
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/distributary
WORKDIR /build
COPY constraints-runtime.txt ./
RUN /opt/distributary/bin/pip install --require-hashes -r constraints-runtime.txt
COPY . .
RUN /opt/distributary/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home distributary
COPY --from=build /opt/distributary /opt/distributary
ENV PATH=/opt/distributary/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
ENTRYPOINT ["distributary"]
