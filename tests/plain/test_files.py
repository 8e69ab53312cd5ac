"""Files that are written whole or not at all."""

import pytest

from paperlab.core.files import replacing, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "a.json"
    write_atomically(file, b"old")
    with replacing(file) as partial:
        partial.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    file = tmp_path / "a.json"
    write_atomically(file, b"old")

    def fail():
        with replacing(file) as partial:
            partial.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert file.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
