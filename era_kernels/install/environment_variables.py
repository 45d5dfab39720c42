"""Makes the environment variables of install steps: the caller's for pip, few of them else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# In any case. What tells of the network: proxies, certificates, registries.
_PASSED = {
    "http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy",
    "ssl_cert_file", "ssl_cert_dir", "node_extra_ca_certs", "requests_ca_bundle", "curl_ca_bundle",
    "git_ssl_cainfo", "deno_cert", "deno_tls_ca_store", "deno_auth_tokens", "jsr_url",
    "goproxy", "gosumdb", "gonosumdb", "gonosumcheck", "goprivate", "gonoproxy", "goinsecure",
    "goauth", "netrc",
}  # fmt: skip
_PASSED_BEGINNINGS = ("npm_config_", "pip_", "uv_")
# What would send the files elsewhere, or another Python's modules to pip.
_NOT_FOR_PIP = {
    "pip_target", "pip_user", "pip_prefix", "pip_root", "pip_requirement", "pip_editable",
    "pip_src", "pip_dry_run", "pip_report", "pip_no_binary", "pip_log", "pip_quiet", "pip_verbose",
    "pip_python", "pip_constraint", "pip_build_constraint",
    "pythonpath", "pythonhome", "pythonstartup",
}  # fmt: skip
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def pip_environment(caller: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the caller's environment: pip finds its configuration there."""
    passed = {name: value for name, value in caller.items() if name.lower() not in _NOT_FOR_PIP}
    return {**passed, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "NO_COLOR": "1"}


def step_environment(
    home: Path, programs: Path, caller: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Returns an environment made from empty, with the caller's ways into the network.

    `home` is a private directory for caches, `programs` the folder of the toolchain's programs.
    """
    passed = {
        name: value
        for name, value in caller.items()
        if name.lower() in _PASSED or name.lower().startswith(_PASSED_BEGINNINGS)
    }
    return {
        **passed,
        "PATH": f"{programs}:{SYSTEM_PATH}",
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "CI": "true",  # no questions, no advertisements
        "NO_COLOR": "1",
    }
