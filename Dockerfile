# The image of every node of a cluster, at the repository's root because what is copied from there goes into it:
#
#     docker build -t registry.example.com/dps_ray:0.1.0 .
#     docker build --build-arg BUILD=cpu -t dps_ray:cpu .
FROM python:3.11-slim-bookworm
ARG BUILD=gpu

# Triton and DeepSpeed compile kernels when they are first used; `ray up` copies files with rsync; KubeRay probes with wget.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ procps rsync wget \
 && rm -rf /var/lib/apt/lists/*

# Into the system's Python: KubeRay and `ray up` use login shells, which know no other PATH.
WORKDIR /opt/dps_ray
# The user of this image may not write beside the packages, so each start would compile them anew.
ENV UV_COMPILE_BYTECODE=1
COPY pyproject.toml PACKAGE.md LICENSE ./
COPY requirements requirements
RUN pip install --no-cache-dir "uv==0.9.30" \
 && if [ "$BUILD" = cpu ]; then torch="--torch-backend cpu"; fi \
 && uv pip install --system --no-cache --no-deps $torch --requirement "requirements/$BUILD.txt"
COPY dps_ray dps_ray
COPY actors actors
COPY cluster cluster
COPY pipelines pipelines
RUN uv pip install --system --no-cache --no-deps --editable .

# HOME in the environment: `ray up` looks for it there. A Ray started in this image asks for a token.
RUN useradd --create-home --uid 1000 ray
USER ray
ENV HOME=/home/ray RAY_AUTH_MODE=token
