"""The same work on each engine: equal bytes, whatever the tasks; tasks that die; runs that are broken off."""

import bz2
import html
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import SoftFileLease, Timeout

from minillm.corpus import Corpus, DumpSource, FilesSource, HubSource, RawStore, SampleSource
from minillm.corpus.sources import Source
from minillm.engines import Engine, Local, Task
from minillm.errors import OutsideError, SettingError
from minillm.files import LEASE, locked, network_disk

ROOT = Path(__file__).parent.parent.parent
HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="es"><siteinfo>
<sitename>Prueba</sitename><base>https://es.example.org/wiki/Portada</base><namespaces><namespace key="0" />
<namespace key="14">Clase</namespace></namespaces></siteinfo>
"""
SMALL = ("data.vocab_size=400", "data.num_articles=null", "data.max_length=64")


def page(number: int, text: str) -> str:
    return (
        f"<page><title>Página {number}</title><ns>0</ns><id>{number}</id><revision><id>{1000 + number}</id>"
        f"<timestamp>2024-01-01T00:00:00Z</timestamp><text>{html.escape(text)}</text></revision></page>\n"
    )


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Eighty articles, among them one that comes again word for word and one that almost does."""
    some = [article.text for article in SampleSource().articles(80, ())]
    some[60], some[70] = some[5], some[6].replace(" y ", " e ", 2)
    return some


@pytest.fixture(scope="session")
def dump(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A dump in three parts, with redirects, a page that comes twice, and one that is too short."""
    folder = tmp_path_factory.mktemp("dump")
    pages = [page(number, text) for number, text in enumerate(texts)]
    pages[10:10] = [page(500, "#REDIRECCIÓN [[Página 1]]"), page(501, "Poco texto."), page(3, texts[3])]
    pages[50:50] = [page(3, texts[3]), page(502, "#REDIRECCIÓN [[Página 2]]")]
    for name, some in ("2", pages[:20]), ("10", pages[20:55]), ("11", pages[55:]):
        (folder / f"wiki-{name}.xml.bz2").write_bytes(bz2.compress(f"{HEADER}{''.join(some)}</mediawiki>\n".encode()))
    return folder


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory, texts: list[str], dump: Path) -> dict[str, Source]:
    """Sources that can be read in parts, and one that cannot."""
    folder = tmp_path_factory.mktemp("texts")
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "libro.txt").write_text("\n\n".join(texts[:40]), encoding="utf-8")
    (folder / "otra.jsonl").write_text('{"title": "a", "text": "Texto corto."}\n' * 3, encoding="utf-8")
    hub = tmp_path_factory.mktemp("hub")
    rows = [
        {"id": str(number), "url": None, "title": f"Página {number}", "text": text} for number, text in enumerate(texts)
    ]
    schema = pa.schema([(name, pa.string()) for name in ("id", "url", "title", "text")])
    for name, some in ("a", rows[:30]), ("b", [*rows[20:], {**rows[0], "id": "sin"}]):
        pq.write_table(pa.Table.from_pylist(some, schema=schema), hub / f"{name}.parquet")
    return {
        "dump": DumpSource(str(dump)),
        "one file": DumpSource(str(dump / "wiki-10.xml.bz2")),
        "files": FilesSource(str(folder)),
        "hub": HubSource(str(hub)),
        "sample": SampleSource(),
    }


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all prepared files by their names, which hold the fingerprints."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for kind in ("corpus", "encoded")
        for path in (folder / kind).rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.fixture(scope="session")
def streamed(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, Source]) -> Callable[..., dict[str, bytes]]:
    """What comes of a source where nothing is cut into tasks."""
    known: dict[Any, dict[str, bytes]] = {}

    def make(kind: str, num_articles: int | None) -> dict[str, bytes]:
        if (kind, num_articles) not in known:
            folder = tmp_path_factory.mktemp("streamed")
            Corpus(sources[kind], folder, num_articles=num_articles, min_length=200).prepare()
            known[kind, num_articles] = content(folder)
        return known[kind, num_articles]

    return make


@pytest.mark.parametrize(
    ("kind", "num_articles", "tasks"),
    [
        ("dump", None, 1),
        ("dump", None, 7),
        ("dump", 45, 4),
        ("one file", None, 3),
        ("files", None, 5),
        ("files", 60, 100),
        ("hub", None, 3),
        ("hub", 40, 2),
        ("sample", 70, 4),
    ],
)
def test_a_corpus_has_the_same_bytes_whatever_the_number_of_tasks(
    sources: dict[str, Source],
    streamed: Callable[..., dict[str, bytes]],
    tmp_path: Path,
    kind: str,
    num_articles: int | None,
    tasks: int,
) -> None:
    engine = Local(tasks=tasks, processes=1)
    corpus = Corpus(sources[kind], tmp_path, num_articles=num_articles, min_length=200, engine=engine)
    corpus.prepare()
    assert content(tmp_path) == streamed(kind, num_articles)
    assert corpus.manifest["funnel"]["kept"] > 20
    assert list((tmp_path / "work").iterdir()) == []


def test_bands_that_are_sorted_in_tasks_give_the_same_verdicts(
    sources: dict[str, Source],
    streamed: Callable[..., dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("minillm.corpus.duplicates.SORTED_AT_ONCE", 16)  # with so few texts already
    engine = Local(tasks=2, processes=1)
    corpus = Corpus(sources["dump"], tmp_path, num_articles=None, min_length=200, engine=engine)
    corpus.prepare()
    assert (corpus.manifest["funnel"]["exact duplicate"], corpus.manifest["funnel"]["near duplicate"]) == (1, 1)
    assert content(tmp_path) == streamed("dump", None)


def test_what_an_engine_prepared_is_found_without_it_and_serves_other_settings(
    sources: dict[str, Source], dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Corpus(sources["dump"], tmp_path, num_articles=None, engine=Local(tasks=2, processes=1)).prepare()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "raw").rglob("*.arrow")}
    Corpus(sources["dump"], tmp_path, num_articles=None).prepare()  # as train.py would
    assert not list((tmp_path / "raw").glob("*.sqlite"))
    other = Corpus(sources["dump"], tmp_path, num_articles=None, min_length=1500)
    assert 0 < other.manifest["funnel"]["kept"] < len(before) * 100
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "raw").rglob("*.arrow")} == before


@pytest.mark.parametrize("held", [20, None])
def test_a_store_that_is_there_serves_where_it_holds_all_and_is_no_obstacle_where_it_does_not(
    sources: dict[str, Source], streamed: Callable[..., dict[str, bytes]], tmp_path: Path, held: int | None
) -> None:
    Corpus(sources["dump"], tmp_path, num_articles=held, min_length=1).prepare()
    shutil.rmtree(tmp_path / "corpus")
    engine = Local(tasks=3, processes=1)
    Corpus(sources["dump"], tmp_path, num_articles=None, min_length=200, engine=engine).prepare()
    assert content(tmp_path) == streamed("dump", None)
    assert bool(list((tmp_path / "raw").glob("*.parts"))) == (held is not None)


def test_who_is_told_which_corpus_was_prepared_opens_no_store(tmp_path: Path) -> None:
    first = Corpus(SampleSource(), tmp_path, num_articles=60)
    first.prepare()
    shutil.rmtree(tmp_path / "raw")
    follower = Corpus(SampleSource(), tmp_path, num_articles=60, prepared=first.fingerprint)
    assert follower.prepare() == first.prepare()
    assert not (tmp_path / "raw").exists()


def test_a_part_that_was_damaged_is_named_and_without_it_the_run_goes_on(
    sources: dict[str, Source], streamed: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    def corpus() -> Corpus:
        engine = Local(tasks=2, processes=1)
        return Corpus(sources["dump"], tmp_path, num_articles=None, min_length=200, engine=engine)

    corpus().prepare()
    shutil.rmtree(tmp_path / "corpus")
    part = sorted((tmp_path / "raw").glob("*.parts/part-*.arrow"))[1]
    content_before = part.read_bytes()
    position = content_before.index(b" que ", len(content_before) // 2)
    part.write_bytes(content_before[:position] + b" qui " + content_before[position + 5 :])
    with pytest.raises(
        OutsideError, match=rf"{part.name}: is damaged \(article \d+ is not as it was read\); remove it"
    ):
        corpus().prepare()
    part.write_bytes(content_before[:-100])
    with pytest.raises(OutsideError, match=rf"{part.name}: is damaged .*; remove it and run the same command again"):
        corpus().prepare()
    assert not list((tmp_path / "corpus").glob("*/manifest.json"))
    part.unlink()
    corpus().prepare()
    assert content(tmp_path) == streamed("dump", None)
    assert part.read_bytes() == content_before


# Tasks


def write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def dies(times: int, marks: Path, path: Path) -> None:
    """Die as for want of memory, the first times."""
    if len(list(marks.iterdir())) < times:
        (marks / str(time.time_ns())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    path.write_text("done", encoding="utf-8")


def refuse(path: Path) -> None:
    raise SettingError("data.source.path", "a.txt", "is no text")


def tasks_in(folder: Path, deaths: int) -> list[Task]:
    marks = folder / "marks"
    marks.mkdir(parents=True)
    tasks = [Task(partial(write, str(number)), folder / f"{number}.txt") for number in range(4)]
    tasks.insert(1, Task(partial(dies, deaths, marks), folder / "dead.txt"))
    return tasks


def check_a_task_that_dies_is_run_again(engine: Engine, folder: Path) -> None:
    tasks = tasks_in(folder, deaths=2)
    engine.run(tasks, folder, "trying")
    assert [task.result.read_text(encoding="utf-8") for task in tasks] == ["0", "done", "1", "2", "3"]
    before = [task.result.stat().st_mtime_ns for task in tasks]
    tasks[2].result.unlink()
    engine.run(tasks, folder, "trying")
    after = [task.result.stat().st_mtime_ns for task in tasks]
    assert [number for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [2]


def test_a_task_that_dies_is_run_again_alone_and_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    check_a_task_that_dies_is_run_again(Local(processes=2), tmp_path)


def test_a_task_that_dies_again_and_again_is_named(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, deaths=99)
    with pytest.raises(OutsideError, match=r"trying: the task for dead.txt was ended 3 times from outside"):
        Local(processes=1).run(tasks, tmp_path, "trying")
    assert sum(task.result.exists() for task in tasks) == 4
    assert len(list((tmp_path / "marks").iterdir())) == 3


def test_what_a_task_raises_is_raised_here_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is no text"):
        Local(processes=1).run([Task(refuse, tmp_path / "refused.txt")], tmp_path, "trying")
    assert not list(tmp_path.glob("refused*"))


def test_a_run_that_was_killed_goes_on(dump: Path, tmp_path: Path) -> None:
    settings = ["engine.tasks=4", "engine.processes=1", "data=dump", f"data.source.path={dump}", *SMALL]
    command = [sys.executable, str(ROOT / "scripts" / "prepare.py"), *settings, f"paths.data_dir={tmp_path / 'broken'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (read := list((tmp_path / "broken" / "raw").glob("*/part-*.arrow"))) and first.poll() is None:
        time.sleep(0.001)
    first.kill()
    first.wait()
    assert read
    before = {path: path.stat().st_mtime_ns for path in read}
    Corpus(DumpSource(str(dump)), tmp_path / "broken", num_articles=None, engine=Local(tasks=4, processes=1)).prepare()
    Corpus(DumpSource(str(dump)), tmp_path / "whole", num_articles=None).prepare()
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in read} == before


# Settings


def test_an_engine_that_is_not_there_is_refused_in_one_line(
    run_script: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = run_script("prepare", "engine=slurm", f"paths.data_dir={tmp_path / 'data'}")
    assert ended.status == 2
    assert ended.stderr.startswith("error: engine=slurm: there is no sbatch on the PATH")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_an_engine_whose_library_is_missing_is_named_with_the_command_that_installs_it(
    run_script: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    ended = run_script("prepare", "engine=ray", f"paths.data_dir={tmp_path / 'data'}")
    assert (ended.status, ended.stderr) == (2, "error: engine=ray: needs ray; pip install -e '.[ray]'\n")


@pytest.mark.parametrize("setting", ["engine.tasks=0", "engine.retries=-1", "engine.processes=0"])
def test_settings_that_cannot_work_are_refused(run_script: Callable[..., Any], tmp_path: Path, setting: str) -> None:
    ended = run_script("prepare", setting, f"paths.data_dir={tmp_path / 'data'}")
    assert ended.status == 2
    assert ended.stderr.startswith(f"error: {setting}: must be ")


def test_a_cluster_of_ray_that_is_not_there_is_refused_in_one_line(
    run_script: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs ray; pip install -e '.[ray]'")
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_script("prepare", "engine=ray", f"engine.address={address}", f"paths.data_dir={tmp_path}")
    expected = f"error: engine.address={address}: no cluster of Ray answers there (ConnectionRefusedError)\n"
    assert (ended.status, ended.stderr) == (2, expected)


def test_settings_that_make_no_corpus_leave_no_work_behind(
    run_script: Callable[..., Any], dump: Path, tmp_path: Path
) -> None:
    settings = ["data=dump", f"data.source.path={dump}", "data.num_articles=null", "data.min_length=1000000"]
    ended = run_script("prepare", "engine.tasks=2", "engine.processes=1", *settings, f"paths.data_dir={tmp_path}")
    assert ended.status == 2
    assert "\nerror: data.min_length=1000000: leaves no article of " in ended.stderr
    assert list((tmp_path / "work").iterdir()) == list((tmp_path / "corpus").iterdir()) == []


# Clusters


@pytest.fixture
def on_slurm(slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "SLURM_CONF", "PATH":
        monkeypatch.setenv(name, slurm[name])


@pytest.mark.slurm
@pytest.mark.usefixtures("on_slurm")
def test_slurm_on_two_nodes_prepares_the_same_bytes(run_script: Callable[..., Any], dump: Path, tmp_path: Path) -> None:
    settings = ["data=dump", f"data.source.path={dump}", *SMALL]
    jobs = ["engine=slurm", "engine.tasks=2", "engine.jobs=2", "engine.cpus=2", "engine.memory_gb=1"]
    assert run_script("prepare", *settings, *jobs, f"paths.data_dir={tmp_path / 'slurm'}").status == 0
    assert run_script("prepare", *settings, f"paths.data_dir={tmp_path / 'here'}").status == 0
    assert content(tmp_path / "slurm") == content(tmp_path / "here")
    assert len(content(tmp_path / "here")) == 14
    nodes = subprocess.run(["squeue", "-h", "-t", "all", "-o", "%N"], capture_output=True, text=True, check=True)
    assert {"n1", "n2"} <= set(nodes.stdout.split())
    assert {path.suffix for path in (tmp_path / "slurm" / "raw").rglob("*") if path.is_file()} == {
        ".arrow",
        ".json",
        ".lock",
    }


@pytest.mark.slurm
@pytest.mark.usefixtures("on_slurm")
def test_jobs_that_slurm_refuses_are_refused_in_one_line(run_script: Callable[..., Any], tmp_path: Path) -> None:
    ended = run_script("prepare", "engine=slurm", "engine.partition=none", f"paths.data_dir={tmp_path}")
    assert ended.status == 1
    assert ended.stderr.startswith("error: engine=slurm: sbatch refused the jobs: ")
    assert ended.stderr.count("\n") == 1
    assert not list((tmp_path / "corpus").glob("*"))


@pytest.mark.slurm
@pytest.mark.usefixtures("on_slurm")
def test_a_run_on_slurm_that_was_killed_goes_on_and_its_jobs_are_ended(
    run_script: Callable[..., Any], dump: Path, tmp_path: Path
) -> None:
    settings = ["engine=slurm", "engine.jobs=1", "engine.memory_gb=1", "data=dump", f"data.source.path={dump}", *SMALL]
    command = [sys.executable, str(ROOT / "scripts" / "prepare.py"), *settings, f"paths.data_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (jobs := list((tmp_path / "raw").glob("*/jobs"))) and first.poll() is None:
        time.sleep(0.001)
    first.kill()
    first.wait()
    assert jobs
    array = jobs[0].read_text(encoding="utf-8")
    assert run_script("prepare", *settings, f"paths.data_dir={tmp_path}").status == 0
    left = subprocess.run(["squeue", "-h", "-j", array], capture_output=True, text=True, check=False)
    assert not left.stdout
    assert not list(tmp_path.glob("raw/*/jobs"))


@pytest.mark.slurm
@pytest.mark.usefixtures("on_slurm")
def test_a_task_that_dies_on_slurm_is_run_again_alone(tmp_path: Path) -> None:
    from minillm.engines import Slurm

    check_a_task_that_dies_is_run_again(Slurm(jobs=1, memory_gb=0.5), tmp_path)


@pytest.mark.slurm
def test_a_node_that_does_not_see_the_folder_is_named(slurm: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "hidden"
    folder.mkdir()
    command = [sys.executable, str(ROOT / "scripts" / "prepare.py"), "engine=slurm", f"paths.data_dir={folder}/data"]
    # A disk of this process alone: the daemons, and so the jobs, see the empty folder under it.
    inner = 'mount -t tmpfs none "$0" && exec "$@"'
    tried = subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip("no mounts of its own for a process here")
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", inner, str(folder), *command, "engine.jobs=1", "engine.memory_gb=0.5"],
        env={**slurm, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "cannot see it; set paths.data_dir to a folder on a disk that all nodes share" in ended.stderr


def test_ray_prepares_the_same_bytes_and_runs_a_task_that_dies_again(
    sources: dict[str, Source], streamed: Any, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray", reason="needs ray; pip install -e '.[ray]'")
    from minillm.engines import Ray

    engine = Ray(tasks=3)
    try:
        check_a_task_that_dies_is_run_again(engine, tmp_path / "tasks")
        Corpus(sources["dump"], tmp_path / "data", num_articles=None, min_length=200, engine=engine).prepare()
    finally:
        ray.shutdown()
    assert content(tmp_path / "data") == streamed("dump", None)


# Disks over a network


@pytest.fixture
def over_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the system's list of mounts has on NFS."""
    folder = tmp_path / "over the network"
    folder.mkdir()
    point = str(folder).replace(" ", "\\040")
    lines = [
        "/dev/sda1 / ext4 rw 0 0",
        f"server:/home {point} nfs4 rw,vers=4.2 0 0",
        f"tmpfs {point}/local tmpfs rw 0 0",
    ]
    mounts = tmp_path / "mounts"
    mounts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr("minillm.files.MOUNTS", mounts)
    return folder


def test_the_longest_mount_says_what_a_disk_is(over_network: Path, tmp_path: Path) -> None:
    assert network_disk(over_network / "data" / "raw") == "nfs4"
    assert network_disk(over_network / "local" / "data") is None
    assert network_disk(tmp_path / "over the network, too") is None


def test_a_store_over_a_network_has_no_shared_memory_and_one_process(over_network: Path, tmp_path: Path) -> None:
    article = next(SampleSource().articles(1, ()))
    for number, folder in enumerate((over_network, tmp_path / "here")):
        path = folder / "raw.sqlite"
        with RawStore(path) as store:
            store.add(article)
            assert path.with_name("raw.sqlite-shm").exists() == bool(number)
            second = sqlite3.connect(path, timeout=0)
            if number:
                assert second.execute("SELECT COUNT(*) FROM articles").fetchone() == (1,)
            else:
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    second.execute("SELECT COUNT(*) FROM articles").fetchone()
            second.close()
    with RawStore(over_network / "raw.sqlite") as store:
        assert list(store) == [article]


def test_a_store_that_was_made_here_goes_on_over_a_network(over_network: Path, tmp_path: Path) -> None:
    articles = list(SampleSource().articles(2, ()))
    with RawStore(tmp_path / "raw.sqlite") as store:
        store.add(articles[0])
    (tmp_path / "raw.sqlite").rename(over_network / "raw.sqlite")
    with RawStore(over_network / "raw.sqlite") as store:
        store.add(articles[1])
        assert list(store) == articles
    assert not list(over_network.glob("*-wal"))


def test_a_lock_over_a_network_is_a_file_that_names_its_holder(over_network: Path) -> None:
    lock = over_network / "raw.lock"
    with locked(over_network / "raw.sqlite"):
        assert {f"pid={os.getpid()}", f"host={socket.gethostname()}"} <= set(lock.read_text(encoding="utf-8").split())
        with pytest.raises(Timeout):
            SoftFileLease(lock, lease_duration=LEASE).acquire(timeout=0)
    assert not lock.exists()


def test_a_lock_that_a_machine_left_which_broke_down_is_free_after_a_while(
    over_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minillm.files.LEASE", 1.5)
    lock = over_network / "raw.lock"
    with locked(over_network / "raw.sqlite"):
        left = lock.read_text(encoding="utf-8").replace(f"host={socket.gethostname()}", "host=another")
        with pytest.raises(Timeout):  # the holder is alive and says so
            SoftFileLease(lock, lease_duration=1.5).acquire(timeout=3)
    lock.write_text(left, encoding="utf-8")
    with pytest.raises(Timeout):  # for all that is known it may be alive
        SoftFileLease(lock, lease_duration=1.5).acquire(timeout=0)
    with locked(over_network / "raw.sqlite"):
        assert f"host={socket.gethostname()}" in lock.read_text(encoding="utf-8")


def test_a_lock_that_a_killed_process_of_this_machine_left_is_taken_away(over_network: Path) -> None:
    code = "import os, pathlib, signal, sys; import minillm.files as files; files.MOUNTS = pathlib.Path(sys.argv[2])\n"
    code += "with files.locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    arguments = [str(over_network / "raw.sqlite"), str(over_network.parent / "mounts")]
    subprocess.run([sys.executable, "-c", code, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert (over_network / "raw.lock").exists()
    with locked(over_network / "raw.sqlite"):
        pass
