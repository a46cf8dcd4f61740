# The page `softfeat app` on a CPU. Run it with a read-only root:
#   docker build --tag softfeat .
#   docker run --read-only --tmpfs /tmp --publish 127.0.0.1:7860:7860 softfeat
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/softfeat
ENV PATH=/opt/softfeat/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install --constraint constraints.txt setuptools wheel cython numpy \
 && pip install --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu \
      --extra-index-url https://pypi.org/simple torch
COPY src src
COPY conf conf
COPY weights weights
RUN pip install --constraint constraints.txt '.[app]' \
 && pip install --constraint constraints.txt --no-build-isolation fast-slic

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin softfeat
COPY --from=build /opt/softfeat /opt/softfeat
# Nothing is written except below /tmp.
ENV PATH=/opt/softfeat/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    SOFTFEAT_CACHE=/tmp/softfeat MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba \
    HF_HOME=/tmp/huggingface
USER 1000
WORKDIR /tmp
EXPOSE 7860
CMD ["softfeat", "app", "--host", "0.0.0.0", "--port", "7860"]
