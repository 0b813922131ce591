"""Object stores: addresses, credentials, the cache of objects, and what goes wrong."""

import base64
import errno
import json
import multiprocessing
import os
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest

from boxwright import files
from boxwright.cli.options import local_input
from boxwright.errors import InputError, printable
from boxwright.remote import address, cache, credentials, folders, helper, members, objects, stores
from boxwright.remote.address import is_remote, parse
from boxwright.remote.folders import local_data, local_path
from boxwright.remote.objects import RemoteObject, fetch, find, listing
from boxwright.remote.outputs import local_output
from object_store import OBS_ENDPOINT, SECRET, Store


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("s3://bucket/a/b.zip", ("s3", "bucket", "a/b.zip")),
        ("S3://bucket", ("s3", "bucket", "")),
        ("obs://my-bucket/folder/", ("obs", "my-bucket", "folder")),
        ("gs://b/x y", ("gs", "b", "x y")),
        ("az://container/k", ("az", "container", "k")),
        ("https://user:pw@host:8000/a/b.zip?sig=1", ("https", "user:pw@host:8000", "a/b.zip?sig=1")),
        (Path("s3://bucket/a"), ("s3", "bucket", "a")),  # of which Path makes s3:/bucket/a
    ],
)
def test_valid_addresses_are_parsed(text: str | Path, parts: tuple[str, str, str]) -> None:
    assert is_remote(text)
    found = parse(text)
    assert (found.scheme, found.bucket, found.key) == parts


def test_query_is_hidden_except_in_object_keys() -> None:
    """The query of a web address may be secret; in an object store `?` is a character of a key, or a wildcard."""
    for text, shown in (
        ("s3://bucket/set-?.zip", "s3://bucket/set-?.zip"),
        ("S3://me:pw@bucket/a?b", "S3://bucket/a?b"),
        ("https://me:pw@host/a.zip?sig=1", "https://host/a.zip"),
        ("rtsp://me:pw@host/a?b", "rtsp://host/a"),
    ):
        assert address.shown(text) == shown
    assert address.public("s3://bucket/set-?.zip") == "s3://bucket/set-?.zip"


@pytest.mark.parametrize("path", ["data", "/s3/x", "s3", "C:/x", "C://x", "./s3:/b", "x/s3://b", "s3:"])
def test_local_paths_are_not_remote(path: str) -> None:
    assert not is_remote(path)
    assert local_path(path) == Path(path)


@pytest.mark.parametrize(
    "text", ["s3://user:pw@bucket/x", "s3://a b/x", "obs://evil.test#/x", "https://:8000/x", "s3:///x"]
)
def test_invalid_addresses_are_rejected(text: str) -> None:
    with pytest.raises(InputError, match="not a valid address") as raised:
        parse(text)
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize("text", ["gcs://bucket/a", "S4://bucket/a", "oss://me:secret@bucket/a", "file:///tmp/a"])
def test_unknown_schemes_are_rejected(text: str) -> None:
    for use in (local_path, local_data, lambda path: local_output(path).__enter__(), local_input):
        with pytest.raises(InputError, match=r":// is not known, needed s3://, gs://, .* or a local path") as raised:
            use(text)
        assert "secret" not in str(raised.value)


def test_messages_contain_no_secrets() -> None:
    whole = "https://user:pass@host/a.zip?X-Amz-Signature=abcdef&x=1"
    assert str(parse(whole)) == "https://host/a.zip"
    assert printable(f"{whole}: is missing, s3://bucket/a?b.jpg is there") == (
        "https://host/a.zip: is missing, s3://bucket/a?b.jpg is there"
    )
    assert printable("rtsp://admin:12345@10.0.0.1/stream") == "rtsp://10.0.0.1/stream"
    assert address.public(whole) == "https://host/a.zip"
    assert parse("https://host/a.zip").uri == whole  # in this process only
    assert address.public("data/set?x=1") == "data/set?x=1"


def test_aws_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B%x\n[other]\naws_access_key_id = C\n"
        "aws_secret_access_key = D\naws_session_token = E\n"
    )
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-west-1\n[profile other]\nregion = cn-north-1\nendpoint_url = http://minio:9000\n"
        "[profile sso]\nsso_session = x\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    found = credentials.s3("b")
    assert (found["access_key_id"], found["secret_access_key"], found["region"]) == ("A", "B%x", "eu-west-1")
    assert "endpoint" not in found
    monkeypatch.setenv("AWS_PROFILE", "other")
    found = credentials.s3("b")
    assert (found["access_key_id"], found["session_token"], found["region"]) == ("C", "E", "cn-north-1")
    assert found["endpoint"] == found["aws_endpoint_url_s3"] == "http://minio:9000"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the environment")
    assert "access_key_id" not in credentials.s3("b")  # obstore reads it
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "sso")
    with pytest.raises(InputError, match="the AWS profile has sso_session and no keys"):
        credentials.s3("b")
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(InputError, match="there is no profile 'none'"):
        credentials.s3("b")
    (tmp_path / "config").write_text("no section\n")
    with pytest.raises(InputError, match=r"AWS_CONFIG_FILE .*cannot be read"):
        credentials.s3("b")


def test_obs_endpoint_has_the_bucket_in_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBS_ACCESS_KEY_ID", "A")
    monkeypatch.delenv("OBS_ENDPOINT", raising=False)
    monkeypatch.setenv("OBS_SECRET_ACCESS_KEY", "B")
    with pytest.raises(InputError, match="needed OBS_ENDPOINT in the environment"):
        credentials.obs("b")
    monkeypatch.setenv("OBS_ENDPOINT", "obs.cn-north-4.myhuaweicloud.com")
    config, keys = credentials.obs("b")
    assert config["endpoint"] == "https://b.obs.cn-north-4.myhuaweicloud.com"
    assert config["region"] == "cn-north-4"
    assert keys == {"access_key_id": "A", "secret_access_key": "B", "token": None, "expires_at": None}
    monkeypatch.setenv("OBS_ENDPOINT", "https://b.obs.cn-north-4.myhuaweicloud.com/")
    assert credentials.obs("b")[0]["endpoint"] == "https://b.obs.cn-north-4.myhuaweicloud.com"


def test_google_and_azure_credentials_from_the_environment(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stores are opened and requested; the server checks no signatures."""
    account = {"gcs_base_url": store.url, "disable_oauth": True, "client_email": "", "private_key": "",
               "private_key_id": ""}  # fmt: skip
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    key = base64.b64encode(b"0123456789abcdef").decode()
    text = f"AccountName=mine;AccountKey={key};BlobEndpoint={store.url}/mine;EndpointSuffix=core.windows.net"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    for uri, variable in (("gs://b/x", "GOOGLE_APPLICATION_CREDENTIALS"), ("az://b/x", "AZURE_STORAGE_ACCOUNT_NAME")):
        with pytest.raises(InputError, match=f"access denied: 403; check {variable}") as raised:
            local_path(uri)
        assert key not in str(raised.value)
    assert [path for _, path, _ in store.requests] == ["b/x", "mine/b/x"]


def test_azure_connection_strings_of_other_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connection strings as the portals of Azure China and of Azure show them, and with keys in lower case."""
    for text, endpoint in (
        ("DefaultEndpointsProtocol=https;AccountName=mine;AccountKey=QQ==;EndpointSuffix=core.chinacloudapi.cn",
         "https://mine.blob.core.chinacloudapi.cn"),
        ("DefaultEndpointsProtocol=https;AccountName=mine;AccountKey=QQ==;EndpointSuffix=core.windows.net",
         "https://mine.blob.core.windows.net"),
        ("accountname=mine; accountkey=QQ==;blobendpoint=http://host/mine;endpointsuffix=x", "http://host/mine"),
    ):  # fmt: skip
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        assert credentials.az() == {"account_name": "mine", "account_key": "QQ==", "endpoint": endpoint}
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    assert credentials.az() == {}


def test_azure_without_account_is_an_error(store: Store) -> None:
    with pytest.raises(InputError, match="no credentials found; set AZURE_STORAGE_ACCOUNT_NAME and"):
        local_path("az://b/x")


@pytest.mark.parametrize("endpoint", ["minio:9000", "https//host", "http://a b", "http://me:secret@ho st"])
def test_invalid_endpoints_are_rejected(store: Store, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(InputError, match=r"^AWS_ENDPOINT_URL: found '.*', needed such as https://host:9000") as raised:
        local_path("s3://bucket/x")
    assert "secret" not in str(raised.value)


def test_missing_credentials_file_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/none/key.json")
    with pytest.raises(InputError, match="check GOOGLE_APPLICATION_CREDENTIALS"):
        local_path("gs://b/x")


def test_obs_rejects_the_bucket_in_the_path(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OBS_ENDPOINT", OBS_ENDPOINT)
    monkeypatch.setenv("OBS_ACCESS_KEY_ID", "TESTKEY")
    monkeypatch.setenv("OBS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another vendor")
    monkeypatch.setenv("HTTP_PROXY", store.url)  # so that all hosts lead to the server

    def write(uri: str) -> None:
        with local_output(uri) as path:
            path.write_bytes(b"12")

    write("obs://bucket/out/a b.txt")
    assert store.get("bucket/out/a b.txt") == b"12"
    assert files.read_bytes(local_path("obs://bucket/out/a b.txt")) == b"12"
    monkeypatch.setenv("AWS_ENDPOINT_URL", OBS_ENDPOINT)  # with the bucket in the path
    with pytest.raises(InputError, match=r"cannot be listed \(the server answers NoSuchKey"):
        write("s3://bucket/out/b.txt")


@pytest.mark.parametrize("reset", [False, True])
def test_failed_requests_are_retried(store: Store, reset: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stores.RETRIES["backoff"], "init_backoff", stores.timedelta(seconds=0.01))
    contents = {f"{number}.bin": os.urandom(1000) for number in range(8)}
    for name, content in contents.items():
        store.put(f"bucket/set/{name}", content)
    store.fail_every, store.reset = 3, reset
    tree = local_data("s3://bucket/set")
    assert {path.name: files.read_bytes(path) for path in tree.iterdir()} == contents
    with local_output("s3://bucket/out") as out:
        out.mkdir()
        for name, content in contents.items():
            (out / name).write_bytes(content)
    assert {name: store.get(f"bucket/out/{name}") for name in contents} == contents


@pytest.mark.slow
@pytest.mark.parametrize("fail_every", [0, 3])
def test_large_object_is_uploaded_in_parts(store: Store, fail_every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stores.RETRIES["backoff"], "init_backoff", stores.timedelta(seconds=0.01))
    content = os.urandom(11 << 20)
    store.fail_every, store.reset = fail_every, True
    with local_output("s3://bucket/large.bin") as path:
        path.write_bytes(content)
    assert store.get("bucket/large.bin") == content
    assert sum("partNumber" in path for _, path, _ in store.requests) >= 3
    assert files.read_bytes(local_path("s3://bucket/large.bin")) == content


def test_store_errors_are_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("bucket/a.bin", bytes(100))
    monkeypatch.setitem(stores.RETRIES, "max_retries", 1)

    def message(path: str) -> str:
        with pytest.raises(InputError) as raised:
            files.read_input(local_path(path))
        assert SECRET not in str(raised.value)
        return str(raised.value)

    assert message("s3://other/x").startswith("s3://other: there is no such bucket")
    assert message("s3://bucket/none") == "s3://bucket/none: there is no such object or folder; correct its name"
    store.put("bucket/a.bin", bytes(99))
    with pytest.raises(InputError, match=r"^s3://bucket/a\.bin: cannot be read \(it has changed since"):
        fetch([RemoteObject("s3://bucket/a.bin", 100, '"0123"')])
    store.cut.add("bucket/a.bin")
    with pytest.raises(OSError, match=r"truncated, 49 of 99 bytes came"):
        files.read_bytes(local_path("s3://bucket/a.bin"))
    store.cut.clear()
    assert len(files.read_bytes(local_path("s3://bucket/a.bin"))) == 99
    assert not list(cache.place("", "").parent.glob("*.part"))
    for name, value, needed in (
        ("AWS_ACCESS_KEY_ID", "OTHER", "access denied: 403; check AWS_ACCESS_KEY_ID"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "its endpoint cannot be reached"),
    ):
        monkeypatch.setenv(name, value)
        monkeypatch.setattr(stores, "_stores", {})
        assert needed in message("s3://bucket/a.bin")
    assert "its endpoint cannot be reached" in message("https://user:pw@127.0.0.1:9/x.zip?sig=1")

    monkeypatch.setattr(stores, "_stores", {})
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert message("s3://bucket/a.bin").startswith("obstore is not installed")
    assert message("s3://bucket/a.bin").endswith("pip install 'boxwright[cloud]'")


def test_unusual_object_names(store: Store) -> None:
    names = ["a b#é%41.txt", "x+y&z.txt", "..dots/n.txt", "under_score-1.txt"]
    for name in names:
        store.put(f"bucket/odd/{name}", name.encode())
    tree = local_data("s3://bucket/odd")
    found = {path.relative_to(tree).as_posix(): files.read_bytes(path) for path in tree.rglob("*.txt")}
    assert found == {name: name.encode() for name in names}
    store.call("PUT", "/bucket/odd2//double.txt", b"x")
    with pytest.raises(InputError, match="a key with '//'"):
        local_data("s3://bucket/odd2")


@pytest.mark.slow
def test_read_only_cache(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is in it is read."""
    store.put("bucket/set/a.txt", b"abc")
    tree = local_data("s3://bucket/set")

    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError

    store.calm()
    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "utime", denied)
        assert files.read_bytes(tree / "a.txt") == b"abc"
    assert store.requests == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"file/outputs/.*: the cache cannot be written; set BOXWRIGHT_CACHE to"):
        local_output("s3://bucket/out").__enter__()


def test_folder_placeholder_objects(store: Store) -> None:
    """As the consoles of stores make them."""
    for key in ("set/", "set/in/", "set/in/more/", "set/in/more/a.txt", "set/empty.txt"):
        store.put(f"bucket/{key}", b"abc" if key.endswith("a.txt") else b"")
    assert [each.uri for each in listing(parse("s3://bucket/set"))] == [
        "s3://bucket/set/empty.txt", "s3://bucket/set/in/more/a.txt"]  # fmt: skip
    tree = local_data("s3://bucket/set")
    assert files.read_bytes(tree / "in" / "more" / "a.txt") == b"abc"
    store.put("bucket/set", b"")  # Azure's directories are objects without a slash
    store.put("bucket/new", b"")
    for local in (local_path, local_data):
        folders.forget()
        assert files.read_bytes(local("s3://bucket/set") / "in" / "more" / "a.txt") == b"abc"
    assert local_path("s3://bucket/set/empty.txt").is_file()
    with local_output("s3://bucket/new", new=True) as out:
        out.mkdir()


def test_object_changed_during_range_reads_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never some of one version, and some of another."""
    monkeypatch.setattr(members, "RANGED", 1)
    store.put("bucket/a.tif", b"1" * (3 * members.BLOCK))
    with files.open_regular(local_path("s3://bucket/a.tif")) as file:
        assert file.read(3) == b"111"
        store.put("bucket/a.tif", b"2" * (3 * members.BLOCK))
        file.seek(2 * members.BLOCK)
        with pytest.raises(OSError, match="it has changed since it was listed; start again"):
            file.read(3)


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_limit_of_open_files_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit is raised for them, as for a thousand shards; otherwise the message names the reason."""
    import resource

    monkeypatch.setattr(cache, "_kept", {})
    paths = [tmp_path / f"{number}.tar" for number in range(60)]
    for path in paths:
        path.touch()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    cache._allow_open_files.cache_clear()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/dev/fd").iterdir()]) + 30, before[1]))
        assert all(map(cache.keep, paths))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for handle in cache._kept.values():
            os.close(handle)
    cache._kept.clear()
    monkeypatch.setattr(cache.os, "open", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
    with pytest.raises(InputError, match=r"0\.tar: cannot be opened \(Too many open files\); .* ulimit -n"):
        cache.keep(paths[0])


def test_objects_are_fetched_once(store: Store) -> None:
    for number in range(6):
        store.put(f"bucket/set/{number}.bin", bytes(1000))
    found = listing(parse("s3://bucket/set"))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(found), range(4)))
    assert len(store.read()) == 6
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        processes.map(fetch, [found, found])
    assert len(store.read()) == 6
    store.put("bucket/set/0.bin", bytes(999))
    fetch(listing(parse("s3://bucket/set")))
    assert len(store.read()) == 7


def test_cache_evicts_least_recently_used_objects(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, "4KB")
    monkeypatch.setattr(cache, "_unchecked", float("inf"))
    monkeypatch.setattr(cache, "_kept", {})
    for number in range(8):
        store.put(f"bucket/set/{number}.bin", bytes(1000))
    found = listing(parse("s3://bucket/set"))
    for age, each in enumerate(found[:4]):
        fetch([each])
        os.utime(each.file, (1000 + age, 1000 + age))
    assert cache.has(found[0].file)  # used now
    assert objects.local_object(found[1]) == found[1].file
    os.utime(found[1].file, (1, 1))  # but in use by its path
    fetch(found[4:5])
    there = [each.file.exists() for each in found]
    assert there == [True, True, False, False, True, False, False, False]
    assert sum(file.stat().st_size for file in found[0].file.parent.iterdir()) <= 4000
    for each in found:
        with objects.open_object(each) as file:  # more than there is room for
            assert len(file.read()) == 1000
    for handle in cache._kept.values():
        os.close(handle)


def test_archive_in_use_by_another_process_stays_valid(store: Store, tmp_path: Path) -> None:
    """Its index is that of a time of change, which a use must not set."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as written:
        written.writestr("a.txt", "abc")
    store.put("bucket/set.zip", (tmp_path / "set.zip").read_bytes())
    tree = local_data("s3://bucket/set.zip")
    file = next(each.file for each in listing(parse("s3://bucket")) if each.uri.endswith("set.zip"))
    os.utime(file, ns=(10**12, file.stat().st_mtime_ns))
    assert cache.has(file)  # as another process does before it opens it
    assert file.stat().st_atime > 1000
    assert files.read_bytes(tree / "a.txt") == b"abc"
    folders.forget()
    assert local_data("s3://bucket/set.zip") == tree


@pytest.mark.parametrize(("text", "size"), [("500MB", 5 * 10**8), ("2 tb", 2 * 10**12), ("1000", 1000), ("3kB", 3000)])
def test_cache_size_is_parsed(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, text)
    assert cache.size_limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "1.5GB", "5XB"])
def test_invalid_cache_size_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, text)
    with pytest.raises(InputError, match="needed a size such as 500MB"):
        cache.size_limit()


def set_environment(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def read_all(paths: list[Path]) -> list[bytes]:
    members.prefetch(paths)
    return [files.read_bytes(path) for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_worker_processes_fetch_objects(store: Store, method: str) -> None:
    """Also forked ones, of a process that has used obstore, which does not work in them."""
    for number in range(4):
        store.put(f"bucket/set/{number}.bin", bytes([number]) * 10)
    tree = local_data("s3://bucket/set")
    paths = sorted(tree.iterdir())
    # the server of forks may have been started by another test
    with multiprocessing.get_context(method).Pool(1, set_environment, [dict(os.environ)]) as pool:
        assert pool.apply_async(read_all, [paths]).get(60) == [bytes([number]) * 10 for number in range(4)]
        assert sorted(store.read()) == [f"bucket/set/{number}.bin" for number in range(4)]
        missing = RemoteObject("s3://bucket/set/none.bin", 1, "")
        with pytest.raises(InputError, match=r"^s3://bucket/set/none\.bin: there is no such object"):
            pool.apply_async(fetch, [[missing]]).get(60)
    assert not helper._helpers  # only forked processes have one


def test_file_on_a_web_server(store: Store) -> None:
    store.put("bucket/names.txt", b"a\nb\n")
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:\d+/bucket/names\.txt: .*access denied") as raised:
        local_path(f"http://user:pw@{store.url[7:]}/bucket/names.txt?sig=hidden")
    assert "pw" not in str(raised.value)
    store.public = True
    file = local_path(f"http://user:pw@{store.url[7:]}/bucket/names.txt?sig=hidden")
    assert file.read_bytes() == b"a\nb\n"
    assert file.suffix == ".txt"
    assert str(InputError(f"{file}: line 1")) == f"{store.url}/bucket/names.txt: line 1"
    with pytest.raises(InputError, match="there is no such file"):
        local_path(f"{store.url}/bucket/none.txt")
    with pytest.raises(InputError, match="results cannot be written there"), local_output(f"{store.url}/x"):
        pass


class WithoutLength(BaseHTTPRequestHandler):
    """Answers end where the connection is closed, as those of programs that make archives on request."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"PK")

    def log_message(self, *arguments: object) -> None:
        pass


def test_web_server_without_content_length_is_an_error(store: Store) -> None:
    with HTTPServer(("127.0.0.1", 0), WithoutLength) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match=r"does not send its size \(Content-Length\); download it"):
            local_path(f"http://127.0.0.1:{server.server_port}/a.zip")
        server.shutdown()


def test_find_returns_size_and_version(store: Store) -> None:
    store.put("bucket/a/b.txt", b"12345")
    found = find(parse("s3://bucket/a/b.txt"))
    assert found is not None
    assert (found.size, found.version) == (5, '"827ccb0eea8a706c4c34a16891f84e7b"')  # MD5 of 12345
    assert find(parse("s3://bucket/a")) is None


def test_threads_share_a_fetch(store: Store) -> None:
    store.put("bucket/one/a.bin", bytes(5000))
    store.latency = 0.1
    (wanted,) = listing(parse("s3://bucket/one"))
    threads = [threading.Thread(target=fetch, args=[[wanted]]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read() == ["bucket/one/a.bin"]
