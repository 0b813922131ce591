# `boxwright serve` on a CPU, from the wheel:
#
#     make wheel
#     docker build --build-arg PIP_EXTRA_INDEX_URL=... -t boxwright .
#     docker run --rm -p 127.0.0.1:8080:8080 -v "$PWD/models:/models:ro" -e BOXWRIGHT_TOKEN boxwright /models/mine.xml
#
# .dockerignore leaves only the wheel in the build context.
FROM python:3.12-slim

# The address of PyTorch's index of CPU builds (pytorch.org, "Get Started") saves gigabytes of CUDA.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1
COPY dist/boxwright-*.whl /tmp/
RUN pip install "$(echo /tmp/boxwright-*.whl)[serve,onnx,openvino]" \
    && rm /tmp/boxwright-*.whl \
    && useradd --create-home --uid 10001 boxwright

USER 10001
WORKDIR /home/boxwright
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=4)"]
# outside of the container, what `docker run -p` says is reachable
ENTRYPOINT ["boxwright", "serve", "--host", "0.0.0.0", "--port", "8080"]
