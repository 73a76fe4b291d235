"""Makes a database of gooseBit in which bundles are software for a model.

gooseBit takes only what it can parse as uploads, .swu and .raucb, so they are put there by
its own classes. Prints the number of each.

usage: seed.py MODEL FILE...
"""

import asyncio
import hashlib
import pathlib
import sys

from goosebit.db.config import TORTOISE_CONF
from goosebit.db.models import Hardware, Software
from tortoise import Tortoise


async def main(model: str, *files: str) -> None:
    await Tortoise.init(config=TORTOISE_CONF)
    await Tortoise.generate_schemas()
    hardware = (await Hardware.get_or_create(model=model, revision="default"))[0]
    for file in map(pathlib.Path, files):
        data = file.read_bytes()
        software = await Software.create(uri=file.as_uri(), size=len(data), hash=hashlib.sha1(data).hexdigest(), version=file.stem)
        await software.compatibility.add(hardware)
        print(software.id)
    await Tortoise.close_connections()


asyncio.run(main(*sys.argv[1:]))
