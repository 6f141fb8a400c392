# bichat for several machines: Postgres, Valkey and the model are elsewhere (compose.yaml).
FROM python:3.13-slim
WORKDIR /srv/bichat
COPY pyproject.toml constraints.txt README.md ./
COPY bichat ./bichat
RUN pip install --no-cache-dir --constraint constraints.txt ".[search,tracing]" \
 && useradd --system --no-create-home bichat
USER bichat
ENV BICHAT_HOST=0.0.0.0
EXPOSE 8000
ENTRYPOINT ["bichat"]
CMD ["api"]
