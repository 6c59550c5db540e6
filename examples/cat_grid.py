"""A cat on a grid, trained with the objectives that train language models: `python examples/cat_grid.py`.

A broom in the way costs 1, falling into the bath costs 5 and sends the cat back to the start, and the meat gives 10 and
ends the episode. The floor is wet: one move in five goes sideways. To accord's objectives a text is just another
environment: they see only flat vectors (N,) and the `owner` of each element:

    here        cell       move            step     episode       reward of the cell that was reached
    in a text   prefix     next token      token    completion    score on the last token, less the KL penalty

So `gae`, `whiten`, `reinforce`, `clipped` and `value` below are the functions that accord trains models with. Here the
truth is known: the grid is small enough to compute the optimal policy, and the exact value of a learned one. Needs `pip
install gymnasium`; takes about ten seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import torch
from torch import Tensor

from accord.objectives import policy
from accord.objectives.advantages import gae, whiten

GAMMA = 0.9  # a reward one step later is worth a tenth less, so the cat hurries
EPISODES = 32  # per update
BOARD = ("..W.M", "S.B..", ".....")  # S the start, B a broom, W the bath (water), M the meat
REWARDS = {"B": -1.0, "W": -5.0, "M": 10.0}
MOVES, ARROWS = ((-1, 0), (0, 1), (1, 0), (0, -1)), "↑→↓←"  # clockwise, so that neighbors are sideways


class CatGrid(gymnasium.Env[Any, Any]):
    """The grid as a Gymnasium environment: an observation is the index of the cat's cell, an action that of a move.

    Walls around the board stop the cat. With probability `slip` a move goes sideways, half of it to either side. An
    episode is cut after `max_steps`, as `max_new_tokens` cuts a completion. "ansi" renders text, with C for the cat.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012  declared as Gymnasium declares it

    def __init__(
        self, board: tuple[str, ...] = BOARD, slip: float = 0.2, max_steps: int = 50, render_mode: str | None = None
    ) -> None:
        self.rows, self.columns, self.tiles = len(board), len(board[0]), "".join(board)
        self.slip, self.max_steps, self.render_mode = slip, max_steps, render_mode
        self.observation_space = gymnasium.spaces.Discrete(len(self.tiles))
        self.action_space = gymnasium.spaces.Discrete(len(MOVES))
        self.start = self.cell = self.tiles.index("S")
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell, self.steps = self.start, 0
        return self.cell, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        outcomes = self.outcomes(self.cell, int(action))
        drawn = self.np_random.choice(len(outcomes), p=[probability for probability, *_ in outcomes])
        _, self.cell, reward, ended = outcomes[drawn]
        self.steps += 1
        return self.cell, reward, ended, self.steps >= self.max_steps, {}

    def outcomes(self, cell: int, action: int) -> list[tuple[float, int, float, bool]]:
        """The possible outcomes of a move: probability, cell, reward, and whether the episode ends."""
        turns = ((1 - self.slip, 0), (self.slip / 2, -1), (self.slip / 2, 1))
        return [(probability, *self._land(cell, MOVES[(action + turn) % 4])) for probability, turn in turns]

    def _land(self, cell: int, move: tuple[int, int]) -> tuple[int, float, bool]:
        row = min(max(cell // self.columns + move[0], 0), self.rows - 1)
        column = min(max(cell % self.columns + move[1], 0), self.columns - 1)
        reached = row * self.columns + column
        tile = self.tiles[reached]
        return self.start if tile == "W" else reached, REWARDS.get(tile, 0.0), tile == "M"

    def render(self) -> str | None:
        marks = self.tiles[: self.cell] + "C" + self.tiles[self.cell + 1 :]
        return self.picture(marks) if self.render_mode == "ansi" else None

    def picture(self, marks: str) -> str:
        """The board with one mark per cell."""
        return "\n".join(marks[i : i + self.columns] for i in range(0, len(marks), self.columns))


def transitions(env: CatGrid) -> tuple[Tensor, Tensor]:
    """The probability to continue from cell s by move a to cell t, (S, A, S), and expected rewards (S, A)."""
    onward = torch.zeros(len(env.tiles), len(MOVES), len(env.tiles), dtype=torch.float64)
    rewards = torch.zeros(len(env.tiles), len(MOVES), dtype=torch.float64)
    for cell in range(len(env.tiles)):
        for action in range(len(MOVES)):
            for probability, reached, reward, ended in env.outcomes(cell, action):
                rewards[cell, action] += probability * reward
                onward[cell, action, reached] += 0.0 if ended else probability
    return onward, rewards


def evaluate(env: CatGrid, pi: Tensor, rewards: Tensor | None = None) -> Tensor:
    """The exact value of every cell (S,) under the policy pi (S, A): Bellman's equations (1 - gamma T_pi) V = R_pi.

    R is the true reward, or `rewards` (S, A) if given.
    """
    onward, truth = transitions(env)
    rewards = truth if rewards is None else rewards
    following = torch.einsum("sa,sat->st", pi, onward)
    return torch.linalg.solve(torch.eye(len(pi), dtype=torch.float64) - GAMMA * following, (pi * rewards).sum(1))


def optimum(env: CatGrid, rewards: Tensor | None = None) -> Tensor:
    """The best policy, (S, A) of zeros and ones, by value iteration: every iteration shrinks the error by gamma.

    It is best by the true reward, or by `rewards` (S, A) if given.
    """
    onward, truth = transitions(env)
    rewards = truth if rewards is None else rewards
    gains = torch.zeros_like(rewards)
    for _ in range(500):  # gamma^500 is below 1e-22
        gains = rewards + GAMMA * onward @ gains.max(1).values
    return torch.nn.functional.one_hot(gains.argmax(1), len(MOVES)).double()


class Steps(NamedTuple):
    """The steps of a batch of episodes, concatenated, each field (N,): the same form as the tokens of completions."""

    cells: Tensor
    actions: Tensor
    rewards: Tensor
    owner: Tensor  # index of the episode
    discount: Tensor  # gamma^t at an episode's step t


class Cat(torch.nn.Module):
    """A tabular softmax policy (S, A) and value (S,), in place of the language model and the value model."""

    def __init__(self, env: CatGrid) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(len(env.tiles), len(MOVES), dtype=torch.float64))
        self.values = torch.nn.Parameter(torch.zeros(len(env.tiles), dtype=torch.float64))

    def forward(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """log pi of every step's move, and the value of its cell, (N,) each."""
        return self.logits.log_softmax(1)[steps.cells, steps.actions], self.values[steps.cells]

    def policy(self) -> Tensor:
        return self.logits.detach().softmax(1)


def sample(env: CatGrid, pi: Tensor, episodes: int) -> Steps:
    """Sample episodes; the environment's generator draws the moves too, so that one seed fixes everything."""
    chances, rows = pi.numpy(), []
    for episode in range(episodes):
        (cell, _), over = env.reset(), False
        while not over:
            action, time = int(env.np_random.choice(len(MOVES), p=chances[cell])), env.steps
            reached, reward, ended, cut, _ = env.step(action)
            rows.append((cell, action, reward, episode, time))
            cell, over = reached, ended or cut
    cells, actions, rewards, owner, times = (torch.tensor(column) for column in zip(*rows, strict=True))
    return Steps(cells, actions, rewards.double(), owner, GAMMA ** times.double())


def reinforce(cat: Cat, steps: Steps) -> Iterator[Tensor]:
    """REINFORCE with the value as baseline; weighted by gamma^t, its mean is the gradient of the start's value."""
    logp, values = cat(steps)
    advantage, returns = gae(steps.rewards, values, steps.owner, gamma=GAMMA, lam=1.0)
    yield steps.discount * policy.reinforce(logp, advantage) + policy.value(values, values, returns, clip=float("inf"))


def ppo(cat: Cat, steps: Steps) -> Iterator[Tensor]:
    """Proximal policy optimization: four clipped updates on the same steps, without the factor gamma^t."""
    old_logp, old_values = (x.detach() for x in cat(steps))
    advantage, returns = gae(steps.rewards, old_values, steps.owner, gamma=GAMMA, lam=0.95)
    advantage = whiten(advantage, mean=advantage.mean(), std=advantage.std(correction=0))
    for _ in range(4):
        logp, values = cat(steps)
        surrogate = policy.clipped(logp, old_logp, advantage, low=0.2, high=0.2)
        yield surrogate + policy.value(values, old_values, returns, clip=1.0)


def learn(env: CatGrid, method: Callable[[Cat, Steps], Iterator[Tensor]], *, updates: int, seed: int = 0) -> Cat:
    """Sample episodes and take gradient steps on the method's losses, `updates` times."""
    cat = Cat(env)
    optimizer = torch.optim.Adam(cat.parameters(), lr=0.1)
    env.reset(seed=seed)
    for _ in range(updates):
        for losses in method(cat, sample(env, cat.policy(), EPISODES)):
            optimizer.zero_grad()
            (losses.sum() / EPISODES).backward()
            optimizer.step()
    return cat


def main() -> None:
    env = CatGrid()
    learned = {"REINFORCE": learn(env, reinforce, updates=250), "PPO": learn(env, ppo, updates=80)}
    policies = {name: cat.policy() for name, cat in learned.items()} | {"optimum": optimum(env)}
    print("board", env.picture(env.tiles), sep="\n", end="\n\n")
    for name, pi in policies.items():
        arrows = (tile if tile in "WM" else ARROWS[move] for tile, move in zip(env.tiles, pi.argmax(1), strict=True))
        print(name, env.picture("".join(arrows)), sep="\n", end="\n\n")
    best = evaluate(env, policies["optimum"])[env.start]
    print(f"{'policy':<12}{'exact value':>12}{'optimum':>12}")
    for name, pi in {"untrained": Cat(env).policy(), **policies}.items():
        print(f"{name:<12}{evaluate(env, pi)[env.start]:>12.4f}{best:>12.4f}")


if __name__ == "__main__":
    main()
