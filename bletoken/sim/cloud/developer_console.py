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
from bletoken.sim.cloud.arguments import PASSWORD_VARIABLE

if TYPE_CHECKING:
    from bletoken.sim.cloud.records import Device
    from bletoken.sim.cloud.store import Store

_LARGEST_PASSWORD: Final = 4096

Content = dict[str, Any]
Command = Callable[["Store", argparse.Namespace], Content]


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was chosen.

    Returns:
        The exit code.

    Raises:
        UsageError: Something that was named is not there, or cannot be.
        StorageError: The database or a file cannot be used.
    """
    commands: dict[str, Command] = {
        "add_app": _add_app,
        "add_class": _add_class,
        "add_device": _add_device,
        "add_home": _add_home,
        "add_member": _add_member,
        "add_project": _add_project,
        "add_token": _add_token,
        "add_user": _add_user,
        "delete_device": _delete_device,
        "list_apps": _list_apps,
        "list_classes": _list_classes,
        "list_devices": _list_devices,
        "list_homes": _list_homes,
        "list_members": _list_members,
        "list_projects": _list_projects,
        "list_tokens": _list_tokens,
        "list_users": _list_users,
        "make_project_key": _make_project_key,
        "move_device": _move_device,
        "remove_device": _remove_device,
        "remove_home": _remove_home,
        "remove_member": _remove_member,
        "set_on_demand": _set_on_demand,
        "show_device": _show_device,
    }
    from bletoken.sim.cloud.store import Store

    if arguments.db is None:
        raise UsageError("name the database file with --db FILE; it is the one that the local MODE was started with")
    if not arguments.db.exists() and arguments.console != "add_project":
        raise UsageError(f"there is no database {arguments.db}; `project add` makes one")
    with Store(arguments.db) as store:
        content = commands[arguments.console](store, arguments)
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
