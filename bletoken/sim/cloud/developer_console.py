"""`bletoken-sim cloud project`, `device` and so on: MODE's Developer Console for the local MODE's database file.

It works on the file that `--db` names, whether a local MODE runs on it or not; it never talks to one. Libraries are
imported when a command runs.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bletoken import console, files
from bletoken.errors import ExistsError, UsageError

if TYPE_CHECKING:
    from bletoken.sim.cloud.records import Device
    from bletoken.sim.cloud.store import Store

PASSWORD_VARIABLE: Final = "BLETOKEN_MODE_PASSWORD"
_LARGEST_PASSWORD: Final = 4096

Content = dict[str, Any]
Command = Callable[["Store", argparse.Namespace], Content]


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands below `bletoken-sim cloud`. A chosen one is `arguments.console`; without one it is None."""
    parser.set_defaults(console=None)
    # Both may stand before the command, too, where the parser above takes them.
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--db", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="the database file")
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")
    nouns = parser.add_subparsers(
        title="instead of running it, change what is in its database (with --db; it may be running)",
        metavar="[COMMAND]",
    )
    project = _option("--project", "the project", required=True)
    home = _option("--home", "the home", required=True)
    user = _option("--user", "the user", required=True)
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("device", type=_id, metavar="ID", help="the device")

    verbs = _noun(nouns, "project", "projects, and how they make their devices")
    one = _verb(verbs, "add", _add_project, [common], "make a project, whose devices are made ahead of time")
    one.add_argument("--name", default="", help="what it is called")
    one.add_argument("--id", type=_id, dest="project", metavar="ID", help="its id (default: the next one)")
    one.add_argument("--on-demand", action="store_true", help="its devices are made on demand")
    _verb(verbs, "list", _list_projects, [common], "list the projects")
    one = _verb(verbs, "on-demand", _set_on_demand, [common, project], "switch On-demand Device Provisioning")
    one.add_argument("switch", choices=("on", "off"))
    one = _verb(verbs, "key", _make_project_key, [common, project], "make a project API key")
    one.add_argument("--key-file", type=Path, metavar="FILE", help="write it there instead of printing it")

    verbs = _noun(nouns, "class", "device classes")
    one = _verb(verbs, "add", _add_class, [common, project], "add a device class to a project")
    one.add_argument("name", metavar="CLASS")
    _verb(verbs, "list", _list_classes, [common, project], "list a project's device classes")

    verbs = _noun(nouns, "app", "apps")
    one = _verb(verbs, "add", _add_app, [common, project], "add an app to a project")
    one.add_argument("name", metavar="APP")
    _verb(verbs, "list", _list_apps, [common, project], "list a project's apps")

    verbs = _noun(nouns, "user", "users")
    one = _verb(verbs, "add", _add_user, [common, project], "make a user")
    one.add_argument("--email", required=True)
    one.add_argument("--name", default="")
    one.add_argument(
        "--password-file", metavar="FILE", help=f"- for standard input; else {PASSWORD_VARIABLE}, else asked for"
    )
    _verb(verbs, "list", _list_users, [common, project], "list a project's users")

    verbs = _noun(nouns, "home", "homes")
    one = _verb(verbs, "add", _add_home, [common, project], "make a home")
    one.add_argument("--name", required=True)
    one.add_argument("--owner", type=_id, metavar="ID", help="the user who owns it (default: nobody)")
    _verb(verbs, "list", _list_homes, [common, project], "list a project's homes")
    _verb(verbs, "remove", _remove_home, [common, home], "delete a home, and remove its devices")

    verbs = _noun(nouns, "member", "members of homes")
    one = _verb(verbs, "add", _add_member, [common, home, user], "make a user a member, or change what it may do")
    one.add_argument("--role", choices=("owner", "member"), default="member", help="(default: %(default)s)")
    _verb(verbs, "list", _list_members, [common, home], "list a home's members")
    _verb(verbs, "remove", _remove_member, [common, home, user], "end a membership")

    verbs = _noun(nouns, "device", "devices")
    one = _verb(verbs, "add", _add_device, [common, project], "make a device ahead of time")
    one.add_argument("--class", dest="device_class", required=True, metavar="CLASS", help="its device class")
    one.add_argument("--name", default="")
    one.add_argument("--tag", default="", help="for instance its serial number")
    one.add_argument("--key-file", type=Path, metavar="FILE", help="write its API key there instead of printing it")
    one.add_argument("--claim-code-file", type=Path, metavar="FILE", help="the same for its claim code")
    one = _verb(verbs, "list", _list_devices, [common], "list devices")
    one.add_argument("--project", type=_id, metavar="ID", help="those of this project")
    one.add_argument("--home", type=_id, metavar="ID", help="those in this home")
    one = _verb(verbs, "show", _show_device, [common, device], "show a device")
    one.add_argument("--secrets", action="store_true", help="with its API key and claim code")
    _verb(verbs, "move", _move_device, [common, device, home], "put a device into a home")
    _verb(verbs, "remove", _remove_device, [common, device], "take a device out of its home, as a user does")
    _verb(verbs, "delete", _delete_device, [common, device], "delete a device; its API key stops working")

    verbs = _noun(nouns, "token", "provisioning tokens")
    one = _verb(verbs, "add", _add_token, [common, home], "make a provisioning token")
    one.add_argument("--class", dest="device_class", required=True, metavar="CLASS", help="the device's class")
    one.add_argument("--tag", default="", help="the device's tag")
    one.add_argument("--lifetime-s", type=int, default=900, metavar="S", help="(default: %(default)s)")
    one.add_argument("--token-file", type=Path, metavar="FILE", help="write it there instead of printing it")
    _verb(verbs, "list", _list_tokens, [common, home], "list a home's tokens, without the tokens themselves")


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was chosen.

    Returns:
        The exit code.

    Raises:
        UsageError: Something that was named is not there, or cannot be.
        StorageError: The database or a file cannot be used.
    """
    from bletoken.sim.cloud.store import Store

    if arguments.db is None:
        raise UsageError("name the database file with --db FILE; it is the one that the local MODE was started with")
    if not arguments.db.exists() and arguments.console is not _add_project:
        raise UsageError(f"there is no database {arguments.db}; `project add` makes one")
    with Store(arguments.db) as store:
        content = arguments.console(store, arguments)
    _tell({"ok": True, **content}, as_json=arguments.json)
    return 0


# Projects -----------------------------------------------------------------------------------------------------------


def _add_project(store: "Store", arguments: argparse.Namespace) -> Content:
    project = store.make_project(
        arguments.name, project_id=arguments.project, on_demand=arguments.on_demand, now_ns=time.time_ns()
    )
    return {"id": project.id, "name": project.name, "on_demand": project.on_demand}


def _list_projects(store: "Store", _: argparse.Namespace) -> Content:
    return {"projects": [{"id": each.id, "name": each.name, "on_demand": each.on_demand} for each in store.projects()]}


def _set_on_demand(store: "Store", arguments: argparse.Namespace) -> Content:
    store.set_on_demand(arguments.project, arguments.switch == "on")
    return {"id": arguments.project, "on_demand": arguments.switch == "on"}


def _make_project_key(store: "Store", arguments: argparse.Namespace) -> Content:
    _check_free(arguments.key_file)
    key = store.make_project_key(arguments.project)
    return {"id": arguments.project, **_secret("api_key", key.key, arguments.key_file)}


def _add_class(store: "Store", arguments: argparse.Namespace) -> Content:
    store.add_class(arguments.project, arguments.name)
    return {"class": arguments.name}


def _list_classes(store: "Store", arguments: argparse.Namespace) -> Content:
    return {"classes": [{"class": name} for name in store.classes(store.existing_project(arguments.project).id)]}


def _add_app(store: "Store", arguments: argparse.Namespace) -> Content:
    store.add_app(arguments.project, arguments.name)
    return {"app": arguments.name}


def _list_apps(store: "Store", arguments: argparse.Namespace) -> Content:
    return {"apps": [{"app": name} for name in store.apps(store.existing_project(arguments.project).id)]}


# People -------------------------------------------------------------------------------------------------------------


def _add_user(store: "Store", arguments: argparse.Namespace) -> Content:
    store.existing_project(arguments.project)
    user = store.make_user(arguments.project, arguments.email, _password(arguments.password_file), name=arguments.name)
    return {"id": user.id, "email": user.email, "name": user.name}


def _list_users(store: "Store", arguments: argparse.Namespace) -> Content:
    users = store.users(store.existing_project(arguments.project).id)
    return {"users": [{"id": user.id, "email": user.email, "name": user.name} for user in users]}


def _add_home(store: "Store", arguments: argparse.Namespace) -> Content:
    project_id = store.existing_project(arguments.project).id
    if arguments.owner is not None:
        _check_user(store, arguments.owner, project_id)
    home = store.make_home(project_id, arguments.name, owner_id=arguments.owner, now_ns=time.time_ns())
    return {"id": home.id, "name": home.name}


def _list_homes(store: "Store", arguments: argparse.Namespace) -> Content:
    homes = store.homes_of_project(store.existing_project(arguments.project).id)
    return {"homes": [{"id": home.id, "name": home.name, "members": len(store.members(home.id))} for home in homes]}


def _remove_home(store: "Store", arguments: argparse.Namespace) -> Content:
    store.delete_home(store.existing_home(arguments.home).id)
    return {"id": arguments.home}


def _add_member(store: "Store", arguments: argparse.Namespace) -> Content:
    _check_user(store, arguments.user, store.existing_home(arguments.home).project_id)
    store.set_member(arguments.home, arguments.user, arguments.role, now_ns=time.time_ns())
    return {"home": arguments.home, "user": arguments.user, "role": arguments.role}


def _list_members(store: "Store", arguments: argparse.Namespace) -> Content:
    members = store.members(store.existing_home(arguments.home).id).values()
    return {"members": [{"user": each.user_id, "email": each.email, "role": each.role} for each in members]}


def _remove_member(store: "Store", arguments: argparse.Namespace) -> Content:
    if arguments.user not in store.members(store.existing_home(arguments.home).id):
        raise UsageError(f"user {arguments.user} is no member of home {arguments.home}")
    store.remove_member(arguments.home, arguments.user)
    return {"home": arguments.home, "user": arguments.user}


# Devices ------------------------------------------------------------------------------------------------------------


def _add_device(store: "Store", arguments: argparse.Namespace) -> Content:
    _check_free(arguments.key_file, arguments.claim_code_file)
    device = store.make_device(
        arguments.project, arguments.device_class, name=arguments.name, tag=arguments.tag, now_ns=time.time_ns()
    )
    assert device.claim_code is not None, "it was made ahead of time"
    return {
        "id": device.id,
        **_secret("api_key", device.api_key, arguments.key_file),
        **_secret("claim_code", device.claim_code, arguments.claim_code_file),
    }


def _list_devices(store: "Store", arguments: argparse.Namespace) -> Content:
    devices = store.devices(None if arguments.home is None else store.existing_home(arguments.home).id)
    if arguments.project is not None:
        project_id = store.existing_project(arguments.project).id
        devices = [device for device in devices if device.project_id == project_id]
    return {"devices": [_device(device) for device in devices]}


def _show_device(store: "Store", arguments: argparse.Namespace) -> Content:
    device = store.existing_device(arguments.device)
    secrets = {"api_key": device.api_key, "claim_code": device.claim_code} if arguments.secrets else {}
    return _device(device) | secrets


def _move_device(store: "Store", arguments: argparse.Namespace) -> Content:
    device, home = store.existing_device(arguments.device), store.existing_home(arguments.home)
    if not store.change_device(device.id, home_id=home.id):
        raise UsageError(f"device {device.id} and home {home.id} are not of the same project")
    return _device(store.existing_device(device.id))


def _remove_device(store: "Store", arguments: argparse.Namespace) -> Content:
    device = store.existing_device(arguments.device)
    if device.home_id is None:
        raise UsageError(f"device {device.id} is in no home; `device delete` deletes it")
    store.remove_device(device.id)
    return {"id": device.id, "gone": store.device(device.id) is None}


def _delete_device(store: "Store", arguments: argparse.Namespace) -> Content:
    store.delete_device(store.existing_device(arguments.device).id)
    return {"id": arguments.device, "gone": True}


def _device(device: "Device") -> Content:
    now_ns = time.time_ns()
    return {
        "id": device.id,
        "project": device.project_id,
        "home": device.home_id,
        "class": device.device_class,
        "name": device.name,
        "tag": device.tag,
        "claimable_until": _time(device.claim_expires_ns) if device.is_claimable(now_ns) else None,
        "claimed": _time(device.claim_ns),
        "last_connected": _time(device.connect_ns),
        "last_disconnected": _time(device.disconnect_ns),
    }


# Tokens -------------------------------------------------------------------------------------------------------------


def _add_token(store: "Store", arguments: argparse.Namespace) -> Content:
    from bletoken.sim.cloud.settings import Settings

    # Settings know which lifetimes are too long.
    settings = Settings(token_lifetime_s=arguments.lifetime_s)
    _check_free(arguments.token_file)
    home = store.existing_home(arguments.home)
    if not store.existing_project(home.project_id).on_demand:
        raise UsageError(f"project {home.project_id} makes no devices on demand; `project on-demand` switches it")
    if not store.has_class(home.project_id, arguments.device_class):
        raise UsageError(f"project {home.project_id} has no device class {arguments.device_class!r}")
    expires_ns = time.time_ns() + int(settings.token_lifetime_s * 10**9)
    token = store.issue_token(
        home.id, arguments.device_class, arguments.tag, length=settings.token_length, expires_ns=expires_ns
    )
    return {"home": home.id, "expires": _time(expires_ns), **_secret("token", token, arguments.token_file)}


def _list_tokens(store: "Store", arguments: argparse.Namespace) -> Content:
    return {
        "tokens": [
            {
                "class": token.device_class,
                "tag": token.tag,
                "expires": _time(token.expires_ns),
                "used": _time(token.used_ns),
            }
            for token in store.tokens(store.existing_home(arguments.home).id)
        ]
    }


# Plumbing -----------------------------------------------------------------------------------------------------------


def _option(name: str, what: str, *, required: bool) -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(name, type=_id, required=required, metavar="ID", help=what)
    return parent


def _noun(nouns: Any, name: str, summary: str) -> Any:  # noqa: ANN401 - argparse has no public type for it
    parser = nouns.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def _verb(
    verbs: Any,  # noqa: ANN401 - argparse has no public type for it
    name: str,
    command: Command,
    parents: list[argparse.ArgumentParser],
    summary: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, parents=parents, help=summary, description=summary, allow_abbrev=False
    )
    parser.set_defaults(console=command)
    return parser


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text[:24]!r} is no id")
    return int(text)


def _time(time_ns: int | None) -> str | None:
    from bletoken.sim.cloud.answers import timestamp

    return None if time_ns is None else timestamp(time_ns, digits=3)


def _check_user(store: "Store", user_id: int, project_id: int) -> None:
    if all(user.id != user_id for user in store.users(project_id)):
        raise UsageError(f"project {project_id} has no user {user_id}")


def _check_free(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and (path.exists() or path.is_symlink()):
            raise ExistsError(f"{path} is there already")


def _secret(name: str, secret: str, path: Path | None) -> Content:
    if path is None:
        return {name: secret}
    files.replace(path, secret.encode() + b"\n")
    return {f"{name}_file": str(path)}


def _password(file: str | None) -> str:
    if file == "-":
        password = sys.stdin.readline(_LARGEST_PASSWORD).strip()
    elif file is not None:
        try:
            password = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise UsageError(f"cannot read the password from {file}") from e
    elif PASSWORD_VARIABLE in os.environ:
        password = os.environ[PASSWORD_VARIABLE]
    elif sys.stdin.isatty():
        from getpass import getpass

        password = getpass("Password of the new user: ").strip()
    else:
        raise UsageError(f"nobody is here to be asked for the password; use --password-file or {PASSWORD_VARIABLE}")
    if not password:
        raise UsageError("the password is empty")
    return password


def _tell(content: Content, *, as_json: bool) -> None:
    if as_json:
        console.say_json(content)
        return
    for name, value in content.items():
        if isinstance(value, list):
            for each in value:
                console.say("  ".join(f"{key} {_shown(part)}" for key, part in each.items() if part not in (None, "")))
            if not value:
                console.say(f"no {name}")
        elif name != "ok" and value not in (None, ""):
            console.say(f"{name.replace('_', ' '):18} {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return console.printable(str(value), 200)
