FROM python:3.11-slim

WORKDIR /opt/medssl
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY medssl ./medssl
COPY configs ./configs
RUN pip install --no-cache-dir -c constraints.txt .

RUN useradd --create-home --uid 1000 medssl
USER medssl
# Mount the archive read-only and the results beside it:
#   docker run -v ARCHIVE:/data:ro -v RESULTS:/home/medssl/out medssl index /data -o out/catalog
WORKDIR /home/medssl
ENTRYPOINT ["medssl"]
