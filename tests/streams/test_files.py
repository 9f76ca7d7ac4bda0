"""Files as users have them: three formats, other people's column names, and everything that can be wrong with a row."""

import csv
import hashlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermoe.errors import BadInput, StorageUnavailable
from streams.files import MAX_TEXT, Columns, open_file

ROWS = [
    {"at": "2021-01-02", "text": "second", "label": "a", "unit": "u1"},
    {"at": "2021-01-01T10:00:00Z", "text": "first, with a comma", "label": "b", "unit": "u2"},
    {"at": "2021-01-03", "text": 'third "quoted"\nover two lines', "label": None, "unit": None},
]
READ = [
    (datetime(2021, 1, 1, 10, tzinfo=UTC), "first, with a comma", "b", "u2"),
    (datetime(2021, 1, 2, tzinfo=UTC), "second", "a", "u1"),
    (datetime(2021, 1, 3, tzinfo=UTC), 'third "quoted"\nover two lines', None, None),
]


def write(path: Path, rows: list[dict[str, str | None]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_the_same_rows_read_the_same_from_every_format_and_are_sorted_by_time(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"rows{ending}", ROWS)
    stream = open_file(path)
    assert [(record.at, record.text, record.label, record.unit) for record in stream.records()] == READ
    assert stream.rejected == ()
    assert stream.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_usual_column_names_are_guessed_and_others_are_given(ending: str, tmp_path: Path) -> None:
    usual = [{"Created_At": "2021-01-01", "Message": "hi", "Team": "a", "customer": "c"}]
    (record,) = open_file(write(tmp_path / f"usual{ending}", usual)).records()
    assert (record.text, record.label, record.unit) == ("hi", "a", "c")
    own = [{"wann": "2021-01-01", "was": "hi", "wohin": "a", "wer": "c", "label": "not this"}]
    path = write(tmp_path / f"own{ending}", own)
    (record,) = open_file(path, columns=Columns(at="wann", text="was", label="wohin", unit="wer")).records()
    assert (record.text, record.label, record.unit) == ("hi", "a", "c")
    with pytest.raises(BadInput, match="the at; name it with --at; the columns are wann, was, wohin, wer"):
        open_file(path)
    with pytest.raises(BadInput, match="no column 'gone' for label; the columns are wann, was"):
        open_file(path, columns=Columns(at="wann", text="was", label="gone"))


def test_a_column_that_is_there_twice_is_not_chosen_silently(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    path.write_text("at,text,text\n2021-01-01,a,b\n")
    with pytest.raises(BadInput, match="'text' is there 2 times"):
        open_file(path)


def test_bad_lines_of_jsonl_are_kept_aside_by_line_with_their_reason(tmp_path: Path) -> None:
    good = b'{"at": "2021-01-01", "text": "good", "label": 3}'
    bad = {
        2: (b'{"at": "2021-01-01", "text": "cut', "broken JSON"),
        3: (b'["2021-01-01", "text"]', "not a JSON object but list"),
        4: (b'{"text": "no date"}', "no date"),
        5: (b'{"at": "soon", "text": "x"}', "cannot read the date 'soon'"),
        6: (b'{"at": "2021-01-01", "text": " "}', "the text is empty"),
        7: (b'{"at": "2021-01-01"}', "no text"),
        8: (b'{"at": "2021-01-01", "text": 5}', "not a string but int"),
        9: (b'{"at": "2021-01-01", "text": "\xff\xfe"}', "invalid UTF-8"),
        10: (b'{"at": "2021-01-01", "text": "\\ud800"}', "invalid UTF-8"),
        11: (b'{"at": "2021-01-01", "text": "a\\u0000b"}', "NUL byte in the text"),
        12: (b'{"at": "2021-01-01", "text": "x", "label": ["a"]}', "the label is not a name but list"),
        13: (b"[" * 100_000, "nested too deep"),
        14: (b'{"at": ' + b"9" * 5000 + b', "text": "x"}', "broken JSON"),
        15: (b'{"at": "2021-01-01", "text": "' + b"x" * (MAX_TEXT + 1) + b'"}', f"more than {MAX_TEXT}"),
        16: (b"\0\0\0", "broken JSON"),
        17: (b'{"at": "9999-12-31", "text": "x"}', "not between 1971 and 2200"),
        18: (b'{"at": "2021-01-01", "text": "x", "label": "' + b"l" * 257 + b'"}', "the label has 257 characters"),
        19: (b'{"at": "2021-01-01", "text": "x", "unit": "' + b"u" * 513 + b'"}', "the unit has 513 characters"),
    }
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([good, *(raw for raw, _ in bad.values()), b"", good]))
    stream = open_file(path)
    assert [record.label for record in stream.records()] == ["3", "3"]
    assert [row.line for row in stream.rejected] == list(bad)
    for row in stream.rejected:
        raw, reason = bad[row.line]
        assert reason in row.reason
        assert "\n" not in row.reason
        assert row.raw == raw.decode("utf-8", "backslashreplace")
        assert row.file == str(path)


def test_bad_rows_of_csv_are_kept_aside_by_line_and_an_open_quote_does_not_swallow_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"\xef\xbb\xbfdate,message,team\r\n"  # a BOM and CRLF, as Excel writes them
        b'2021-01-01,"two\r\nlines",a\r\n'
        b",no date,a\r\n"
        b'2021-01-01,"never closed,a\r\n'
        b"2021-01-02,after,b\r\n"
        b"\r\n"
        b"2021-01-02,\xff,b\r\n"
        b"2021-01-02,b\r\n"
        b"2021-01-02,a,b,c\r\n"
        b"2021-01-02,NUL \0,b\r\n"
        b"2021-01-03,unlabelled,\r\n"
    )
    stream = open_file(path)
    assert [(record.text, record.label) for record in stream.records()] == [
        ("two\r\nlines", "a"),
        ("after", "b"),
        ("unlabelled", None),
    ]
    assert [(row.line, row.reason) for row in stream.rejected] == [
        (4, "no date"),
        (5, "broken CSV: a quote is opened and never closed"),
        (8, "invalid UTF-8"),
        (9, "2 cells where there are 3 columns"),
        (10, "4 cells where there are 3 columns"),
        (11, "NUL byte in the text"),
    ]
    assert stream.rejected[2].raw == r"2021-01-02,\xff,b"


def test_a_giant_cell_of_csv_is_one_rejected_row_and_the_process_keeps_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "giant.csv"
    path.write_text(f"at,text\n2021-01-01,{'x' * (MAX_TEXT + 1)}\n2021-01-02,{'y' * 140_000}\n")
    limit = csv.field_size_limit()
    stream = open_file(path)
    assert [len(record.text) for record in stream.records()] == [140_000]
    assert [row.line for row in stream.rejected] == [2]
    assert len(stream.rejected[0].raw) > MAX_TEXT
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ";"), (".tsv", "\t"), (".csv", ",")])
def test_the_delimiter_is_the_one_the_column_names_use(ending: str, delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{ending}"
    path.write_text(f"at{delimiter}text\n2021-01-01{delimiter}hi\n")
    assert [record.text for record in open_file(path).records()] == ["hi"]


@pytest.mark.parametrize("above", ["\n", "   \n", " , ,\n,\n"])
def test_lines_of_nothing_above_the_column_names_are_passed_over(above: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{above}at,text\n2021-01-01,hi\n,\n")
    stream = open_file(path)
    assert [record.text for record in stream.records()] == ["hi"]
    assert [row.line for row in stream.rejected] == [above.count("\n") + 3]


def test_a_parquet_column_that_nobody_wants_may_hold_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    beyond = pyarrow.array([{"ts": 10**18}, {"ts": 1}], pyarrow.struct([("ts", pyarrow.timestamp("us"))]))
    table = pyarrow.table({"at": ["2021-01-01", "2021-01-02"], "text": ["a", "b"], "nested": beyond})
    pyarrow.parquet.write_table(table, path)
    stream = open_file(path)
    assert ([record.text for record in stream.records()], stream.rejected) == (["a", "b"], ())
    pyarrow.parquet.write_table(table.rename_columns(["at", "words", "text"]), path)
    with pytest.raises(BadInput, match=r"none of its 2 rows can be used; line 1: column text cannot be read"):
        open_file(path)


def test_a_label_is_one_however_its_accents_are_written_and_whatever_stands_around_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"at": "2021-01-01", "text": "a", "label": label} for label in ("café", "cafe\u0301", " café ")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {record.label for record in open_file(path).records()} == {"café"}


def test_parquet_reads_its_own_types_and_rejects_by_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    at = pyarrow.array(
        [1609459200_000_000_001, None, 1609459200_000_000_000, 1609459200_000_000_000], pyarrow.timestamp("ns")
    )
    invalid = pyarrow.Array.from_buffers(
        pyarrow.string(),
        4,
        [
            None,
            pyarrow.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0])),
            pyarrow.py_buffer(b"ab\xffd"),
        ],
    )
    label = pyarrow.array(["x", "x", "x", "y"]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"time": at, "body": invalid, "class": label}), path)
    stream = open_file(path)
    assert [(record.at, record.text, record.label) for record in stream.records()] == [
        (datetime(2021, 1, 1, tzinfo=UTC), "a", "x"),
        (datetime(2021, 1, 1, tzinfo=UTC), "d", "y"),
    ]
    assert [(row.line, row.reason) for row in stream.rejected] == [(2, "no date"), (3, "invalid UTF-8 in column body")]
    assert json.loads(stream.rejected[1].raw)["body"] == r"\xff"


def test_rejected_rows_go_where_they_are_told_and_never_beside_the_users_file(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = folder / "rows.jsonl"
    path.write_bytes(b'{"at": "2021-01-01", "text": "good"}\n{"text": "\xff"}\n')
    rejects = tmp_path / "home" / "rejects" / "rows.jsonl"
    stream = open_file(path, rejects=rejects)
    (kept,) = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert kept == {"file": str(path), "line": 2, "reason": "invalid UTF-8", "raw": '{"text": "\\xff"}'}
    assert [row.line for row in stream.rejected] == [2]
    assert list(folder.iterdir()) == [path]
    path.write_bytes(b'{"at": "2021-01-01", "text": "mended"}\n')
    open_file(path, rejects=rejects)
    assert not rejects.exists()


def test_rejected_rows_that_cannot_be_kept_stop_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"at": "2021-01-01", "text": "good"}\nbad\n')
    with pytest.raises(BadInput, match="would overwrite"):
        open_file(path, rejects=path)
    with pytest.raises(StorageUnavailable, match="cannot keep the rejected rows"):
        open_file(path, rejects=path / "below-a-file")


def test_files_that_cannot_be_used_at_all_are_named_in_one_line(tmp_path: Path) -> None:
    files = {
        "empty.csv": (b"", "the file is empty"),
        "names-only.csv": (b"at,text\n", "the file has no rows"),
        "blank.jsonl": (b"\n\n", "the file has no rows"),
        "blank.csv": (b"\n\n", "the file has no rows"),
        "names.csv": (b"at,te\xffxt\nx,y\n", "line 1 should name the columns, but: invalid UTF-8"),
        "one-bad.jsonl": (b"nonsense\n", "its only row cannot be used; line 1: broken JSON"),
        "all-bad.csv": (b"at,text\nx,y\nx,z\n", "none of its 2 rows can be used; line 2: cannot read the date 'x'"),
        "utf16.csv": ("at,text\n2021-01-01,hi\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
        "not.parquet": (b"at,text\n2021-01-01,hi\n", "not a readable Parquet file"),
        "truncated.parquet": (b"PAR1" + b"\0" * 50 + b"PAR1", "not a readable Parquet file"),
        "rows.xlsx": (b"x", "should end in .jsonl, .ndjson, .csv"),
        "rows": (b"x", "should end in .jsonl"),
    }
    for name, (content, says) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BadInput) as refusal:
            open_file(path)
        assert says in str(refusal.value)
        assert str(refusal.value).startswith(f"{path}: ")
        assert "\n" not in str(refusal.value)
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(BadInput, match="a directory"):
        open_file(folder)
    with pytest.raises(BadInput, match="no such file"):
        open_file(tmp_path / "absent.csv")
    with pytest.raises(BadInput, match="cannot be read"):
        open_file(tmp_path / "rows" / "below-a-file.csv")


def test_progress_grows_to_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"at": "2021-01-01", "text": "x" * 1000}) + "\n") * 4000)
    seen: list[tuple[int, int | None]] = []
    open_file(path, progress=lambda done, total: seen.append((done, total)))
    size = path.stat().st_size
    assert len(seen) >= 4
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (size, size)
    assert {total for _, total in seen} == {size}


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
def test_whatever_a_csv_writer_writes_is_read_back(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerows([("at", "text", "label"), *(("2021-01-01", text, label) for text, label in rows)])
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(buffer.getvalue().encode())
    stream = open_file(path)
    assert stream.rejected == ()
    assert [(record.text, record.label) for record in stream.records()] == [
        (text, label.strip()) for text, label in rows
    ]


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=6),
    ending=st.sampled_from([".jsonl", ".csv"]),
)
def test_no_line_of_any_bytes_is_lost_and_good_ones_survive_them(
    lines: list[bytes], ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    head, good = (b"", b'{"at":"2021-01-01","text":"good"}') if ending == ".jsonl" else (b"at,text", b"2021-01-01,good")
    path = tmp_path_factory.mktemp("bytes") / f"rows{ending}"
    path.write_bytes(b"\n".join([head, good, *lines, good, b""]))
    stream = open_file(path)
    assert [record.text for record in stream.records()].count("good") == 2
    assert {row.line for row in stream.rejected} <= set(range(3, 3 + len(lines)))


def test_a_column_without_a_name_is_neither_label_nor_unit(tmp_path: Path) -> None:
    (tmp_path / "pandas.csv").write_text(",at,text\n0,2025-01-01,foo\n1,2025-01-02,bar\n")
    found = open_file(tmp_path / "pandas.csv").records()
    assert [(record.label, record.unit) for record in found] == [(None, None)] * 2


def test_what_is_not_a_number_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"at": "2025-01-01", "text": "foo", "label": NaN, "user": NaN}\n')
    (found,) = open_file(tmp_path / "rows.jsonl").records()
    assert (found.label, found.unit) == (None, None)


def test_a_time_zone_that_is_not_known_here_is_said_in_one_line(tmp_path: Path) -> None:
    at = pyarrow.array([1735689600000000], type=pyarrow.timestamp("us", tz="Foo/Bar"))
    pyarrow.parquet.write_table(pyarrow.table({"at": at, "text": ["a"]}), tmp_path / "rows.parquet")
    with pytest.raises(BadInput, match="time zone is not known here"):
        open_file(tmp_path / "rows.parquet")
