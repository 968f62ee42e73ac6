"""The arguments of `bletoken-sim cloud`, and of its commands, which do what MODE's Developer Console does.

It imports nothing that takes time, so that `--help` answers at once.
"""

import argparse

from bletoken import command_line

PASSWORD_VARIABLE = "BLETOKEN_MODE_PASSWORD"

_DESCRIPTION = """\
Runs a local MODE for tests and for your desk. It prints its URL, and runs until it is interrupted.
Everything in it is made up; its database is not protected.
With a command it does not run, but does what MODE's Developer Console does."""


def add_arguments(parser: argparse.ArgumentParser, given: list[str]) -> None:
    """Add the options and commands to the parser; of the commands only those among these words get their own."""
    parser.description = _DESCRIPTION
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--db", type=command_line.path, metavar="FILE", help="database file (default: in memory)")
    parser.add_argument("--settings", type=command_line.path, metavar="FILE", help="JSON object with settings")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="assignments",
        help="a setting, for instance token_lifetime_s=60 or token_used=409:TOKEN_USED; repeatable, wins over the file",
    )
    parser.add_argument(
        "--seed", action="store_true", help="make a demo project, device class, user and home, and print them"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    _add_commands(parser, given)


def _add_commands(parser: argparse.ArgumentParser, given: list[str]) -> None:
    """Add the commands below `bletoken-sim cloud`. A chosen one is `arguments.console`; without one it is None."""
    parser.set_defaults(console=None)
    nouns = parser.add_subparsers(
        title="instead of running it, change what is in its database (with --db; it may be running)",
        metavar="[COMMAND]",
    )
    for name, summary, add_verbs in (
        ("project", "projects, and how they make their devices", _project),
        ("class", "device classes", _class),
        ("app", "apps", _app),
        ("user", "users", _user),
        ("home", "homes", _home),
        ("member", "members of homes", _member),
        ("device", "devices", _device),
        ("token", "provisioning tokens", _token),
    ):
        noun = nouns.add_parser(
            name, help=summary, description=summary, formatter_class=command_line.formatter, allow_abbrev=False
        )
        if name in given:
            add_verbs(_Verbs(noun))


class _Verbs:
    """The commands about one kind of thing."""

    def __init__(self, noun: argparse.ArgumentParser) -> None:
        self._verbs = noun.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(self, name: str, command: str, summary: str, *needs: str) -> argparse.ArgumentParser:
        """Add a command; `needs` are the things that it has to be told the ids of."""
        verb: argparse.ArgumentParser = self._verbs.add_parser(
            name, help=summary, description=summary, formatter_class=command_line.formatter, allow_abbrev=False
        )
        verb.set_defaults(console=command)
        # Both may stand before the command, too, where the parser above takes them.
        verb.add_argument(
            "--db", type=command_line.path, metavar="FILE", default=argparse.SUPPRESS, help="the database file"
        )
        verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")
        for thing in needs:
            verb.add_argument(f"--{thing}", type=_id, required=True, metavar="ID", help=f"the {thing}")
        return verb


def _project(verbs: _Verbs) -> None:
    one = verbs.add("add", "add_project", "make a project, whose devices are made ahead of time")
    one.add_argument("--name", default="", help="what it is called")
    one.add_argument("--id", type=_id, dest="project", metavar="ID", help="its id (default: the next one)")
    one.add_argument("--on-demand", action="store_true", help="its devices are made on demand")
    verbs.add("list", "list_projects", "list the projects")
    one = verbs.add("on-demand", "set_on_demand", "switch On-demand Device Provisioning", "project")
    one.add_argument("switch", choices=("on", "off"))
    one = verbs.add("key", "make_project_key", "make a project API key", "project")
    one.add_argument("--key-file", type=command_line.path, metavar="FILE", help="write it there instead of printing it")


def _class(verbs: _Verbs) -> None:
    one = verbs.add("add", "add_class", "add a device class to a project", "project")
    one.add_argument("name", metavar="CLASS")
    verbs.add("list", "list_classes", "list a project's device classes", "project")


def _app(verbs: _Verbs) -> None:
    one = verbs.add("add", "add_app", "add an app to a project", "project")
    one.add_argument("name", metavar="APP")
    verbs.add("list", "list_apps", "list a project's apps", "project")


def _user(verbs: _Verbs) -> None:
    one = verbs.add("add", "add_user", "make a user", "project")
    one.add_argument("--email", required=True)
    one.add_argument("--name", default="")
    one.add_argument(
        "--password-file", metavar="FILE", help=f"- for standard input; else {PASSWORD_VARIABLE}, else asked for"
    )
    verbs.add("list", "list_users", "list a project's users", "project")


def _home(verbs: _Verbs) -> None:
    one = verbs.add("add", "add_home", "make a home", "project")
    one.add_argument("--name", required=True)
    one.add_argument("--owner", type=_id, metavar="ID", help="the user who owns it (default: nobody)")
    verbs.add("list", "list_homes", "list a project's homes", "project")
    verbs.add("remove", "remove_home", "delete a home, and remove its devices", "home")


def _member(verbs: _Verbs) -> None:
    one = verbs.add("add", "add_member", "make a user a member, or change what it may do", "home", "user")
    one.add_argument("--role", choices=("owner", "member"), default="member", help="(default: %(default)s)")
    verbs.add("list", "list_members", "list a home's members", "home")
    verbs.add("remove", "remove_member", "end a membership", "home", "user")


def _device(verbs: _Verbs) -> None:
    one = verbs.add("add", "add_device", "make a device ahead of time", "project")
    one.add_argument("--class", dest="device_class", required=True, metavar="CLASS", help="its device class")
    one.add_argument("--name", default="")
    one.add_argument("--tag", default="", help="for instance its serial number")
    one.add_argument(
        "--key-file", type=command_line.path, metavar="FILE", help="write its API key there instead of printing it"
    )
    one.add_argument("--claim-code-file", type=command_line.path, metavar="FILE", help="the same for its claim code")
    one = verbs.add("list", "list_devices", "list devices")
    one.add_argument("--project", type=_id, metavar="ID", help="those of this project")
    one.add_argument("--home", type=_id, metavar="ID", help="those in this home")
    one = verbs.add("show", "show_device", "show a device")
    _device_id(one)
    one.add_argument("--secrets", action="store_true", help="with its API key and claim code")
    _device_id(verbs.add("move", "move_device", "put a device into a home", "home"))
    _device_id(verbs.add("remove", "remove_device", "take a device out of its home, as a user does"))
    _device_id(verbs.add("delete", "delete_device", "delete a device; its API key stops working"))


def _token(verbs: _Verbs) -> None:
    one = verbs.add("add", "add_token", "make a provisioning token", "home")
    one.add_argument("--class", dest="device_class", required=True, metavar="CLASS", help="the device's class")
    one.add_argument("--tag", default="", help="the device's tag")
    one.add_argument("--lifetime-s", type=int, default=900, metavar="S", help="(default: %(default)s)")
    one.add_argument(
        "--token-file", type=command_line.path, metavar="FILE", help="write it there instead of printing it"
    )
    verbs.add("list", "list_tokens", "list a home's tokens, without the tokens themselves", "home")


def _device_id(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("device", type=_id, metavar="ID", help="the device")


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text[:24]!r} is no id")
    return int(text)
