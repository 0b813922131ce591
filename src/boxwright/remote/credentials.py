"""Configuration of each vendor's store, from its usual environment variables and files.

obstore itself reads the variables of AWS, Google and Azure, and the roles of their machines. This module adds the rest:
AWS's files with profiles, Azure's connection string, and everything for Huawei.
"""

import configparser
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from boxwright.errors import InputError
from boxwright.remote.address import shown

Config = dict[str, Any]
ENDPOINT = re.compile(r"https?://([^\s/@]+@)?([\w.-]+|\[[0-9a-fA-F:]+\])(:\d+)?(/[^\s?#]*)?")
AWS_KEYS = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key",
            "aws_session_token": "session_token"}  # fmt: skip
# Environment variables with AWS credentials, which take precedence over the files
AWS_SOURCES = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
               "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE")  # fmt: skip
AWS_INDIRECT = ("role_arn", "sso_session", "sso_start_url", "credential_process")
# Parts of a connection string, in lower case since Azure's own tools accept any
AZURE_PARTS = {"accountname": "account_name", "accountkey": "account_key", "sharedaccesssignature": "sas_key",
               "blobendpoint": "endpoint"}  # fmt: skip
# Variables to check if access is denied
VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "obs": "OBS_ACCESS_KEY_ID and OBS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
}


def s3(bucket: str) -> Config:
    """AWS, and other stores with its protocol by AWS_ENDPOINT_URL. Raises InputError for a profile without keys."""
    environment, profile = os.environ, _aws_profile()
    config: Config = {"disable_bulk_delete": True}  # bulk requests are not retried after a reset
    if not any(environment.get(name) for name in AWS_SOURCES):
        config |= {ours: profile[theirs] for theirs, ours in AWS_KEYS.items() if theirs in profile}
        if "access_key_id" not in config and (indirect := next((key for key in AWS_INDIRECT if key in profile), None)):
            raise InputError(
                f"s3://{bucket}: the AWS profile has {indirect} and no keys, needed keys; "
                "eval $(aws configure export-credentials --format env)"
            )
    if region := environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile.get("region"):
        config["region"] = region
    endpoint = next((environment[name] for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
                     if environment.get(name)), profile.get("endpoint_url"))  # fmt: skip
    if endpoint:
        if environment.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in ("1", "true"):
            endpoint = _with_bucket(endpoint, bucket)
        _check_endpoint(endpoint, "AWS_ENDPOINT_URL")
        config["endpoint"] = config["aws_endpoint_url_s3"] = endpoint  # the second has precedence in obstore
    return config


def obs(bucket: str) -> tuple[Config, Any]:
    """Configuration and credentials of Huawei's OBS, which rejects addresses with the bucket in the path.

    Raises:
        InputError: A variable is missing.
    """
    names = ("OBS_ENDPOINT", "OBS_ACCESS_KEY_ID", "OBS_SECRET_ACCESS_KEY")
    if missing := [name for name in names if not os.environ.get(name)]:
        raise InputError(
            f"obs://{bucket}: needed {', '.join(missing)} in the environment, such as "
            "OBS_ENDPOINT=obs.cn-north-4.myhuaweicloud.com"
        )
    endpoint = os.environ["OBS_ENDPOINT"]
    endpoint = _with_bucket(endpoint if "://" in endpoint else f"https://{endpoint}", bucket)
    _check_endpoint(endpoint, "OBS_ENDPOINT")
    labels = (urlsplit(endpoint).hostname or "").removeprefix(f"{bucket}.").split(".")
    config = {
        "endpoint": endpoint,
        "aws_endpoint_url_s3": endpoint,
        "virtual_hosted_style_request": True,
        "region": labels[1] if labels[0] == "obs" and len(labels) > 2 else "region",  # part of signatures
        "disable_tagging": True,
        "disable_bulk_delete": True,
    }
    keys = {
        "access_key_id": os.environ["OBS_ACCESS_KEY_ID"],
        "secret_access_key": os.environ["OBS_SECRET_ACCESS_KEY"],
        "token": os.environ.get("OBS_SECURITY_TOKEN") or None,
        "expires_at": None,
    }
    return config, keys


def az() -> Config:
    """Azure: the parts of AZURE_STORAGE_CONNECTION_STRING, if there is one."""
    pairs = (part.partition("=") for part in os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"))
    parts = {key.strip().lower(): value.strip() for key, _, value in pairs}
    config: Config = {ours: parts[theirs] for theirs, ours in AZURE_PARTS.items() if theirs in parts}
    if "endpointsuffix" in parts and "account_name" in config:  # other clouds than the public one
        protocol = parts.get("defaultendpointsprotocol", "https")
        config.setdefault("endpoint", f"{protocol}://{config['account_name']}.blob.{parts['endpointsuffix']}")
    return config


def _check_endpoint(endpoint: str, title: str) -> None:
    """Raise InputError for an endpoint that is not the address of a server. title: name of the variable."""
    if ENDPOINT.fullmatch(endpoint) is None:
        raise InputError(f"{title}: found '{shown(endpoint)[:80]}', needed such as https://host:9000")


def _with_bucket(endpoint: str, bucket: str) -> str:
    """Endpoint with the bucket as the first part of the host."""
    scheme, _, rest = endpoint.rstrip("/").partition("://")
    return f"{scheme}://{rest}" if rest.startswith(f"{bucket}.") else f"{scheme}://{bucket}.{rest}"


def _aws_profile() -> dict[str, str]:
    """Values of the profile AWS_PROFILE, or `default`, in AWS's two files. Raises InputError if it is missing."""
    name = os.environ.get("AWS_PROFILE", "")
    values: dict[str, str] = {}
    for variable, place, prefix in (
        ("AWS_CONFIG_FILE", "~/.aws/config", "profile "),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", ""),
    ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(os.environ.get(variable) or place).expanduser(), encoding="utf-8")
        except (configparser.Error, OSError, RuntimeError, UnicodeDecodeError) as error:
            raise InputError(f"{variable} ({place}): cannot be read ({type(error).__name__}); correct it") from error
        section = name or "default"
        for title in (section, prefix + section):
            if parser.has_section(title):
                values |= parser[title]
    if name and not values:
        raise InputError(f"AWS_PROFILE: there is no profile '{name}' in ~/.aws/credentials or ~/.aws/config")
    return values
