"""Replies kept on the way: none lost, none half, damage named."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hired_eval.errors import UserError
from hired_eval.records.folder import RunFolder
from hired_eval.records.replies import ImageTokens, Reply, ReplyFile

COUNTS = st.builds(ImageTokens, st.integers(0, 9), st.none() | st.integers(0, 9), st.integers(0, 9))
REPLIES = st.builds(
    Reply,
    text=st.text(st.characters(exclude_categories=["Cs"])),
    loss=st.none() | st.floats(0, 100),
    greedy=st.none() | st.booleans(),
    counts=st.lists(COUNTS, max_size=3).map(tuple),
    images=st.lists(st.just("0123456789abcdef"), max_size=3).map(tuple),
)


def key(i: int) -> tuple[str, int, int, int]:
    return ("docvqa_val", i, 0, 0)


@settings(max_examples=30, deadline=None)
@given(replies=st.lists(REPLIES, min_size=1, max_size=5), share=st.floats(0, 1))
def test_a_file_cut_anywhere_keeps_every_whole_reply(
    tmp_path_factory: pytest.TempPathFactory, replies: list[Reply], share: float
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("runs"), "a-run")
    log = ReplyFile(folder)
    sizes = [0]
    for i, reply in enumerate(replies):
        log.add({key(i): reply})
        sizes.append(log.file.stat().st_size)
    content = log.file.read_bytes()
    cut = int(share * len(content))
    log.file.write_bytes(content[:cut])
    whole = sum(size <= cut for size in sizes[1:])
    found = ReplyFile(folder)
    assert list(found.known) == [key(i) for i in range(whole)]
    assert [found.get(key(i)) for i in range(whole)] == replies[:whole]
    assert log.file.stat().st_size == sizes[whole]
    found.add({key(9): Reply(text="next")})
    assert ReplyFile(folder).get(key(9)) == Reply(text="next")


def test_a_sample_that_failed_is_answered_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-run")
    ReplyFile(folder).add({key(0): Reply(error="its image cannot be read"), key(1): Reply(text="b")})
    log = ReplyFile(folder)
    assert log.get(key(0)) is None
    assert log.get(key(1)) == Reply(text="b")
    log.add({key(0): Reply(text="a")})
    assert ReplyFile(folder).get(key(0)) == Reply(text="a")


@pytest.mark.parametrize(
    "damage", [b"{}\n", b"\xff\xfe\n", b"[1, 2]\n", b'[["t", 0, 0], {"words": "x"}]\n', b"\n"]
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    folder = RunFolder(tmp_path, "a-run")
    log = ReplyFile(folder)
    log.add({key(0): Reply(text="a")})
    log.file.write_bytes(log.file.read_bytes() + damage)
    with pytest.raises(UserError, match=r"line 2 of .*replies\.jsonl is damaged; delete the file"):
        ReplyFile(folder)


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-run")
    folder.path.mkdir()
    log = ReplyFile(folder)
    log.file.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*No space left.*what was answered is kept"):
        log.add({key(0): Reply(text="a")})


def test_replies_from_before_draws_were_numbered_are_first_draws(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-run")
    log = ReplyFile(folder)
    log.add({key(0): Reply(text="a")})
    log.file.write_text(log.file.read_text().replace('["docvqa_val", 0, 0, 0]', '["docvqa_val", 0, 0]'))
    assert ReplyFile(folder).get(key(0)) == Reply(text="a")
