"""Every setting of every process, from `RYANGPT_*` variables; the only reader of the environment.

A secret may be given as a file instead: `RYANGPT_API_TOKEN_FILE=/run/secrets/api_token`.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PostgresDsn, SecretStr, TypeAdapter, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shared.base.errors import StartupError

ENV_PREFIX = "RYANGPT_"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
MIN_TOKEN_CHARS = 16
MIN_TOKEN_DISTINCT_CHARS = 8
WELL_KNOWN_SECRETS = frozenset({"minioadmin", "changeme", "secret", "password", "admin"})


class SecretFileSource(EnvSettingsSource):
    """Reads `RYANGPT_<NAME>_FILE` and takes the file's stripped content as the value of NAME."""

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name in self.settings_cls.model_fields:
            path = os.environ.get(f"{ENV_PREFIX}{name.upper()}_FILE")
            if path:
                values[name] = _read_secret(Path(path))
        return values


def _read_secret(path: Path) -> str:
    try:
        secret = path.read_text("utf-8").strip()
    except OSError as error:
        raise StartupError(f"The secret file {path} cannot be read: {error.strerror}.") from error
    if not secret:
        raise StartupError(f"The secret file {path} is empty.")
    return secret


class Settings(BaseSettings):
    """One field a setting; its docstring is its documentation."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    data_dir: Path = Path(".ryangpt")
    """Where embedded mode keeps database, queue, objects, caches and run folders."""
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite in the data folder."""
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Celery's broker and the channel of hints."""
    object_store: Literal["local", "s3"] = "local"
    """`local` keeps objects as files in the data folder; `s3` speaks to any S3 server."""
    s3_endpoint: str = "127.0.0.1:9000"
    """host:port of the S3 server."""
    s3_bucket: str = "ryan-gpt"
    """Bucket of all objects; it must exist."""
    s3_region: str = "us-east-1"
    """Region used in signatures."""
    s3_access_key: str = ""
    """S3 access key."""
    s3_secret_key: SecretStr = SecretStr("")
    """S3 secret key."""
    s3_secure: bool = False
    """Whether to speak TLS to the S3 server."""

    api_host: str = "127.0.0.1"
    """Address the API binds to; beyond loopback a token is required."""
    api_port: int = Field(8000, ge=1, le=65535)
    """Port of the API and its pages."""
    inference_host: str = "127.0.0.1"
    """Address the inference service binds to; beyond loopback a token is required."""
    inference_port: int = Field(8001, ge=1, le=65535)
    """Port of the inference service."""
    inference_url: str = ""
    """Where the API finds the inference service; empty means this machine's inference port."""
    api_token: SecretStr = SecretStr("")
    """Static bearer token; empty means loopback only."""
    allowed_hosts: str = "127.0.0.1,localhost,[::1],testserver"
    """Comma-separated Host header values that are answered."""
    max_upload_bytes: int = Field(8 << 30, ge=1)
    """Largest upload accepted."""

    gpu_slots: int = Field(1, ge=0, le=64)
    """Training jobs the trainer worker runs at once: one a GPU, one on a CPU box."""
    slot_lock_dir: Path | None = None
    """Where training jobs lock the GPU they use; all trainers of one machine must share it. Empty
    means a folder in the data folder."""
    inference_gpu_bytes: int = Field(1 << 30, ge=0)
    """GPU memory that training leaves to the inference service on the same card; 0 when that
    serves elsewhere."""
    light_slots: int = Field(1, ge=1, le=16)
    """Exports the trainer worker runs at once, beside training."""
    tokenizer_slots: int = Field(1, ge=1, le=16)
    """Data jobs the tokenizer worker runs at once."""
    owner_running_limit: int = Field(0, ge=0)
    """Jobs of one owner that run at once on each queue; the same for API and workers. 0 means no
    limit."""
    owner_queued_limit: int = Field(0, ge=0)
    """Jobs of one owner that may wait or be queued; more are answered 429. 0 means no limit."""
    garbage_hours: float = Field(24.0, ge=0)
    """Objects that no row names are deleted when they are this old; real time, not scaled."""
    num_threads: int = Field(0, ge=0)
    """CPU threads of a job or the engine; 0 means all cores."""
    cache_bytes: int = Field(20 << 30, ge=1 << 20)
    """Bound of a worker's cache of downloaded inputs."""
    compile_cache: Path | None = None
    """Folder of torch.compile's kernels, kept between jobs; by default in the data folder."""
    attention: Literal["auto", "xformers", "sdpa"] = "auto"
    """Attention of generation: auto means xformers on CUDA and SDPA on CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the engine computes."""
    inference_weights: Literal["auto", "int8"] = "auto"
    """Number type of the layers' matrices in the engine: auto means that of the computation; int8,
    on a CPU only, is faster for few requests at once and rounds the weights."""
    inference_slots: int = Field(8, ge=1, le=1024)
    """Requests the engine generates for at once; each slot holds a whole context of keys and
    values, 7.9 MB for the reference preset in float32."""
    inference_memory_bytes: int = Field(0, ge=0)
    """Bytes that weights and caches of all served models may take; 0 means no bound. A version that
    does not fit beside what is loaded is not served until it does."""
    inference_cuda_graphs: bool = True
    """Whether a GPU's steps of pure generation are replayed as CUDA graphs; without, each operator
    is launched by itself, which is slower and easier to look into."""
    inference_queue: int = Field(256, ge=0, le=100_000)
    """Requests that may wait for a slot; more are answered 429."""
    inference_queue_tokens: int = Field(131_072, ge=1)
    """Prompt tokens that may wait for a slot; more are answered 429."""
    inference_queue_seconds: float = Field(60.0, gt=0)
    """A request that has no slot after so long is answered 429."""
    inference_answer_seconds: float = Field(600.0, gt=0)
    """An answer that is not whole after so long is ended with an error and its slot freed."""
    inference_keepalive_seconds: float = Field(15.0, gt=0)
    """A stream that has had nothing to send for so long, also while it waits for a slot, sends a
    comment, lest something on the way take it for dead."""

    time_factor: float = Field(1.0, gt=0, le=1)
    """All lease, heartbeat, sweep and retry durations are multiplied by this; tests shrink it."""
    log_format: Literal["text", "json"] = "text"
    """`text` for a terminal, `json` for a container."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is written."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, SecretFileSource(settings_cls)

    @model_validator(mode="after")
    def _refuse_well_known_secrets(self) -> Settings:
        for name in ("api_token", "s3_secret_key"):
            if getattr(self, name).get_secret_value() in WELL_KNOWN_SECRETS:
                variable = f"{ENV_PREFIX}{name.upper()}"
                raise ValueError(f"{variable} is a well-known value; choose your own")
        return self

    @property
    def resolved_database_url(self) -> str:
        """The database to use, with psycopg 3 named as PostgreSQL's driver."""
        if not self.database_url:
            return f"sqlite:///{self.data_dir.resolve() / 'ryangpt.db'}"
        if self.database_url.startswith("postgresql://"):
            TypeAdapter(PostgresDsn).validate_python(self.database_url)
            return self.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
        return self.database_url

    @property
    def resolved_inference_url(self) -> str:
        """Base URL of the inference service, without a trailing slash."""
        default = f"http://127.0.0.1:{self.inference_port}"
        return (self.inference_url or default).rstrip("/")

    @property
    def host_list(self) -> list[str]:
        """Allowed Host header values (ports are ignored when matching)."""
        return [host.strip() for host in self.allowed_hosts.split(",") if host.strip()]

    @property
    def resolved_num_threads(self) -> int:
        """CPU threads to use."""
        return self.num_threads or os.cpu_count() or 1

    def seconds(self, duration: float) -> float:
        """Scale a life-cycle duration (seconds) by the one time factor."""
        return duration * self.time_factor

    @property
    def resolved_slot_lock_dir(self) -> Path:
        """Folder of the locks on GPUs, absolute."""
        return (self.slot_lock_dir or self.data_dir / "slots").resolve()

    def refuse_open_door(self, host: str) -> None:
        """Raise StartupError when `host` is beyond loopback and no token, or a weak one, is set."""
        if host in LOOPBACK:
            return
        if not self.api_token.get_secret_value():
            raise StartupError(
                f"Refusing to listen on {host} without a token: set {ENV_PREFIX}API_TOKEN or "
                f"{ENV_PREFIX}API_TOKEN_FILE, or bind to 127.0.0.1."
            )
        self.refuse_weak_token()

    def refuse_weak_token(self) -> None:
        """Raise StartupError when the token could be guessed."""
        token = self.api_token.get_secret_value()
        if len(token) >= MIN_TOKEN_CHARS and len(set(token)) >= MIN_TOKEN_DISTINCT_CHARS:
            return
        raise StartupError(
            f"{ENV_PREFIX}API_TOKEN is too weak: it needs {MIN_TOKEN_CHARS} characters, "
            f"{MIN_TOKEN_DISTINCT_CHARS} of them different. "
            'A good one: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
        )


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Read the environment once a process; raise StartupError naming the bad variable."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        where = f"{ENV_PREFIX}{name}: " if name else ""
        raise StartupError(f"Bad setting. {where}{first['msg']}.") from error


def child_environment(**overrides: str) -> dict[str, str]:
    """The environment for a process this one starts, with `overrides` on top."""
    return {**os.environ, **overrides}
