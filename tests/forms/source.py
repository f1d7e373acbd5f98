# mypy: ignore-errors
"""source.py NAME DIRECTORY CLOUD_CFG: runs in Debian's Python with cloud-init's modules, on files in DIRECTORY/cloud/seed.

Prints as JSON what the data source NAME finds, and what is left when all parts of the user-data are handled.
"""

import importlib
import json
import os
import sys
from pathlib import Path

import yaml
from cloudinit import distros, helpers, user_data, util
from cloudinit.config.modules import Modules
from cloudinit.handlers.cloud_config import CloudConfigPartHandler
from cloudinit.handlers.shell_script import ShellScriptPartHandler

name, directory, base = sys.argv[1:]
os.chdir(directory)
paths = helpers.Paths({"cloud_dir": f"{directory}/cloud", "run_dir": f"{directory}/run"})
paths.seed_dir = f"{directory}/cloud/seed"
settings = {"datasource": {"OpenNebula": {"parseuser": None}}}
distro = distros.fetch("debian")("debian", settings, paths)
module = importlib.import_module(f"cloudinit.sources.DataSource{name}")
source = getattr(module, f"DataSource{name}")(settings, distro, paths)
assert source._get_data(), "the data source takes it for none of its own"

instance = f"{directory}/cloud/instance"
os.makedirs(f"{instance}/scripts", exist_ok=True)
paths.datasource = source
message = user_data.UserDataProcessor(paths).process(source.get_userdata_raw())


def call(handler, kind, filename, payload, headers):
    """As cloudinit.handlers.run_part does."""
    more = () if handler.handler_version == 2 else (headers,)
    handler.handle_part(None, kind, filename, payload, "once-per-instance", *more)


handlers = [CloudConfigPartHandler(paths), ShellScriptPartHandler(paths, script_path="scripts")]
handlers[0].cloud_fn, handlers[1].script_dir = f"{instance}/cloud-config.txt", f"{instance}/scripts"
types = {kind: handler for handler in handlers for kind in handler.list_types()}
for handler in handlers:
    call(handler, "__begin__", None, None, {})
strangers = []
for part in message.walk():
    if part.is_multipart():
        continue
    handler = types.get(part.get_content_type())
    if handler is None:
        strangers.append(part.get_content_type())
    else:
        call(handler, part.get_content_type(), part.get_filename(), util.fully_decoded_payload(part), dict(part))
for handler in handlers:
    call(handler, "__end__", None, None, {})
config = yaml.safe_load(Path(f"{instance}/cloud-config.txt").read_bytes())


class Init:
    """Of stages.Init, what Modules asks for the merged configuration."""

    def __init__(self):
        self.paths = paths
        self.datasource = source
        self.cfg = yaml.safe_load(Path(base).read_bytes())


paths.get_ipath_cur = lambda what=None: f"{instance}/cloud-config.txt" if what == "cloud_config" else f"{instance}/none"
modules = Modules(Init())
print(json.dumps({
    "instance": source.get_instance_id(),
    "hostname": source.metadata.get("local-hostname"),
    "dsmode": source.dsmode,
    "network": source.network_config,
    "config": config,
    "strangers": strangers,
    "scripts": {path.name: path.read_text() for path in sorted(Path(f"{instance}/scripts").iterdir())},
    "bootcmd": util.shellify(config.get("bootcmd", [])),
    "runcmd": util.shellify(config.get("runcmd", [])),
    "modules": {stage: [found["mod"] for found in modules._read_modules(f"cloud_{stage}_modules")]
                for stage in ("init", "config", "final")},
}))
