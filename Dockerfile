# umemma for training and for serving (docs/serving.md#docker).
#
# Build arguments: EXTRAS, what to install besides the main packages; PIP_INDEX_URL and
# PIP_EXTRA_INDEX_URL, which pip reads, for another index, such as one that has PyTorch for CPUs only.
FROM python:3.12-slim

ARG EXTRAS=serve
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY recipes recipes
COPY umemma umemma
RUN pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]" && rm -rf /src/*

# Any user may run it (docker run --user), so what libraries keep for themselves is in /tmp.
ENV HOME=/tmp PYTHONUNBUFFERED=1
RUN useradd --no-create-home --uid 1000 umemma && install -d -o umemma -g umemma /project
USER umemma
WORKDIR /project
EXPOSE 8000
ENTRYPOINT ["umemma"]
CMD ["--help"]
