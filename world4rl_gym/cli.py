"""The command line `world4rl`: looks at world models, checks them and plays them.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from world4rl_gym import __version__

if TYPE_CHECKING:
    from world4rl_gym.play.session import Session
    from world4rl_gym.world_model import WorldModel

_MODEL = "a folder, a Hub id, or a listed name; the embedded world model if left out"


class CommandError(ValueError):
    """A command cannot be done as it was asked for; the message says why."""


def make_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(prog="world4rl", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="tell what a world model is and how far to trust it")
    verify = commands.add_parser("verify", help="load strictly, imagine one step of every task")
    play = commands.add_parser("play", help="drive a world model in the browser, or make a video")
    inspect = commands.add_parser(
        "inspect", help="one HTML file of episodes, real beside imagined, wrongly judged ones first"
    )
    inspect.add_argument(
        "episodes", type=Path, metavar="EPISODES", help="a folder of TASK/SPLIT/*.npz"
    )
    for command in (info, verify, play, inspect):
        command.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL)
        command.add_argument("--revision", help="branch, tag or commit on the Hub")
    play.add_argument(
        "--task", help="the task to begin with; if left out, the policy's, or the first"
    )
    play.add_argument("--policy", type=Path, metavar="FOLDER", help="a policy on features")
    play.add_argument("--device", help="cpu, cuda, cuda:1")
    play.add_argument(
        "--video", type=Path, metavar="FILE", help="write one episode to FILE.mp4 or .gif; no page"
    )
    play.add_argument("--seed", type=int, help="of the starts and, without a policy, the actions")
    play.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    play.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    inspect.add_argument("--split", default="test", help="train, validation or test (%(default)s)")
    inspect.add_argument(
        "--task", action="append", help="a task to look at, more than once for several; else all"
    )
    inspect.add_argument(
        "--most", type=int, default=100, help="episodes shown, wrongly judged first (%(default)s)"
    )
    inspect.add_argument(
        "--out", type=Path, default=Path("outcomes.html"), metavar="FILE", help="(%(default)s)"
    )
    inspect.add_argument(
        "--rerun", type=Path, metavar="FILE", help="also write them as .rrd for Rerun's viewer"
    )
    commands.add_parser("doctor", help="tell what is installed and what each missing thing costs")
    return parser


def load(args: argparse.Namespace) -> WorldModel:
    """Loads the world model that a command names, strictly.

    Raises:
        WorldModelError: It is refused; the message names file and field.
    """
    from world4rl_gym.world_model import WorldModel

    return WorldModel.from_pretrained(args.model, revision=args.revision)


def info(args: argparse.Namespace) -> None:
    """Prints tasks, sizes and the card of a world model, with its measured figures."""
    from world4rl_gym.hub import find_folder
    from world4rl_gym.model_index import ALL_FILES, CARD_FILE

    model = load(args)
    folder = find_folder(args.model, args.revision, True, ALL_FILES)
    config, frames = model.config, model.initial_frames
    starts = int(frames.is_start.sum())
    print(folder)
    for name, value in (
        ("tasks", ", ".join(config.tasks)),
        ("frames", f"{model.frame_size} x {model.frame_size}, codes of {model.code_size}"),
        ("action", f"{model.action_size} numbers, held for {config.action_repeat} control steps"),
        ("robot", f"state of {model.state_size} numbers, command of {model.command_size}"),
        ("horizon", f"{config.max_episode_steps} decisions"),
        ("success", f"from a probability of {config.success_threshold} on"),
        ("drawing", f"{config.num_inference_steps} denoising steps a frame"),
        ("starts", f"{starts} real, {len(frames) - starts} from within demonstrations"),
        *((part, _size(getattr(model, part))) for part in ("eyes", "memory", "denoiser")),
    ):
        print(f"  {name:9} {value}")
    stated = config.provenance.get("trust_verdicts")
    for task, verdict in stated.items() if isinstance(stated, dict) else ():
        print(f"  verdict   {task}: {verdict}")
    card = folder / CARD_FILE
    if not card.is_file():
        for name, value in config.provenance.items():
            if name != "trust_verdicts":
                print(f"  {name}: {value}")
        print("\nIt has no card, and so no figures. Measure before you trust.")
        return
    text = card.read_text(encoding="utf-8")
    print("\n" + (text.split("\n---\n", 1)[-1] if text.startswith("---\n") else text).strip())


def verify(args: argparse.Namespace) -> None:
    """Loads a world model strictly and imagines and draws one step of every task.

    Raises:
        CommandError: What it imagines is not finite.
    """
    from world4rl_gym.play.session import Session

    model = load(args)
    session = Session(model, seed=0)
    for task in model.config.tasks:
        session.begin(task)
        moment = session.step([0.0] * model.action_size)
        values = (moment.success, moment.uncertainty, *moment.state)
        if not all(value - value == 0 for value in values):
            raise CommandError(f"{task}: imagined step: expected finite numbers, got {values}")
        print(f"{task}: one step imagined and drawn in {1000 * moment.seconds:.0f} ms")
    print("The world model is whole.")


def play(args: argparse.Namespace) -> None:
    """Shows a world model in the browser, or writes a video of one episode.

    Raises:
        CommandError: An argument is wrong or something is missing.
    """
    if args.video is not None and args.video.suffix not in (".mp4", ".gif"):
        raise CommandError(f"--video: expected a file .mp4 or .gif, got {args.video}")
    if not 0 <= args.port <= 65_535:
        raise CommandError(f"--port: expected within [0, 65535], got {args.port}")
    if args.seed is not None and args.seed < 0:
        raise CommandError(f"--seed: expected at least 0, got {args.seed}")
    if args.video is None:
        try:
            import aiohttp  # noqa: F401
        except ImportError:
            raise CommandError(
                "the page needs aiohttp: pip install 'world4rl-gym[play]'; or give --video"
            ) from None
    from world4rl_gym.arguments import check_device
    from world4rl_gym.policy import Policy

    model = load(args)
    tasks = model.config.tasks
    if args.task is not None and args.task not in tasks:
        raise CommandError(f"--task: expected one of {', '.join(tasks)}, got {args.task!r}")
    if args.device is not None:
        try:
            model.to(check_device(args.device))
        except ValueError as error:
            raise CommandError(f"--{error}") from None
    policy = None
    if args.policy is not None:
        policy = Policy.from_pretrained(args.policy)
        policy.check_fits(model)
    own = policy.task if policy is not None else None
    task = args.task or (own if own in tasks else tasks[0])
    if args.video is None:
        from world4rl_gym.play.server import Player, serve

        name = args.model or "the embedded world model"
        player = Player(model, policy, name=name, task=task)
        asyncio.run(serve(player, args.host, args.port))
        return
    from world4rl_gym.play.session import Session

    write_video(Session(model, policy, args.seed), task, args.video, args.seed)


def write_video(session: Session, task: str, path: Path, seed: int | None) -> None:
    """Plays one episode, until success or the horizon, and writes it as MP4 or GIF.

    Args:
        session: Its policy drives; without one, actions are drawn at random.
        task: The task's name.
        path: The file; its ending chooses the kind.
        seed: Of the random actions.

    Raises:
        RecordingError: imageio or ffmpeg is missing.
        OSError: The file cannot be written.
    """
    import numpy as np

    from world4rl_gym.writing import write_whole

    rng = np.random.default_rng(seed)
    moment = session.begin(task)
    while not (moment.over or moment.solved):
        if session.policy is not None:
            moment = session.step()
        else:
            action = rng.uniform(-1, 1, session.world_model.action_size)
            moment = session.step(action, "random")
    assert session.recording is not None
    write_whole(path, session.recording.video(path.suffix[1:]))
    outcome = "solved in imagination" if moment.solved else "not solved"
    print(
        f"{path}: {task}, start {moment.start}, {moment.driver}, {moment.step} decisions, {outcome}"
    )


def inspect(args: argparse.Namespace) -> None:
    """Writes the page of episodes, real beside imagined.

    Raises:
        CommandError: An argument is wrong.
    """
    if args.most < 1:
        raise CommandError(f"--most: expected at least 1, got {args.most}")
    from world4rl_gym.inspection.page import inspect as write_page

    model = load(args)
    print(
        write_page(
            model, args.episodes, args.split, args.task or (), args.most, args.out, args.rerun
        )
    )


def doctor(args: argparse.Namespace) -> None:
    """Prints what is there and what each missing thing costs.

    Raises:
        CommandError: Something is missing that the package cannot do without.
    """
    from world4rl_gym.doctor import examine

    rows, works = examine()
    for there, name, detail in rows:
        print(f"{'ok' if there else '--'}  {name:20}  {detail}")
    if not works:
        raise CommandError("the package does not work here; see the lines above")


def _size(network: object) -> str:
    parameters = network.parameters()  # type: ignore[attr-defined]
    return f"{sum(p.numel() for p in parameters) / 1e6:.2f} M parameters"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    An error that its message explains ends it with that message and status 1; a wrong usage with
    status 2. Any other error is a defect, and keeps its traceback.

    Args:
        arguments: None takes those of the process.
    """
    args = make_parser().parse_args(arguments)
    commands = {"info": info, "verify": verify, "play": play, "inspect": inspect, "doctor": doctor}
    try:
        commands[args.command](args)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has seen enough
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        own = type(error).__module__.split(".")[0] in ("world4rl_gym", "__main__")
        if not own and not isinstance(error, OSError):
            raise
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
