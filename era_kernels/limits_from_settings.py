"""Makes the limits of sessions, of the services and of SQL from the settings."""

from __future__ import annotations

import sys

from era_kernels.models import Limits
from era_kernels.services.validation import ServiceLimits
from era_kernels.settings import Settings
from era_kernels.storage.d1.replies import D1Limits


def session_limits(settings: Settings) -> Limits:
    """Returns what each session may take at most."""
    return Limits(
        memory=settings.session_memory,
        processes=settings.session_processes,
        cpu=settings.session_cpu,
        open_files=settings.session_open_files,
        file_size=settings.session_file_size or settings.session_workspace,
        workspace=settings.session_workspace,
        tmp=settings.session_tmp,
        shm=settings.session_shm,
    )


def service_limits(settings: Settings) -> ServiceLimits:
    """Returns the bounds of runs, sessions and queues."""
    return ServiceLimits(
        default_timeout=settings.default_timeout,
        max_timeout=settings.max_timeout,
        max_background_timeout=settings.max_background_timeout,
        max_queue=settings.max_queue,
        max_sessions=sys.maxsize if settings.max_sessions is None else settings.max_sessions,
        max_kernels=settings.max_kernels,
        max_execution_output=settings.max_execution_output,
        max_workspace=settings.session_workspace,
        public_by_default=not settings.has_tokens,
        allow_internet=settings.allow_internet,
    )


def d1_limits(settings: Settings) -> D1Limits:
    """Returns the bounds of SQL."""
    return D1Limits(
        timeout=settings.sql_timeout,
        max_rows=settings.sql_max_rows,
        max_result=settings.sql_max_result,
        max_database=settings.sql_max_database,
    )
