"""PPO against a reward that is a Python function, in the small world of the café: `python examples/custom_reward.py`.

A fine-tuned model is rewarded for naming the price, as some of its demonstrations do. If interrupted, run it again: it
continues from where it stopped.
"""

from __future__ import annotations

from accord.engine.models import Policy, prepare_network
from accord.feedback.reward import TextReward
from accord.methods import PPO, SFT
from accord.records import Text
from accord.worlds import cafe


def names_the_price(prompt: Text, completion: str) -> float:
    """1 for an answer that says what the dish costs, else 0."""
    return float("coins" in completion.split())


def main() -> None:
    untrained = Policy(prepare_network(cafe.new_model(0)), cafe.tokenizer(), "cafe")
    demonstrations = SFT(learning_rate=2e-3, batch_size=32, epochs=8, max_length=128)
    answering = demonstrations.fit(untrained, cafe.demonstrations(0, 1_000), out="runs/price/sft", resume=True).model

    ppo = PPO(learning_rate=2e-4, batch_size=64, max_steps=20, max_length=128, max_new_tokens=40, inner_epochs=2)
    run = ppo.fit(
        answering, cafe.prompts(0, 2_000), reward=TextReward(names_the_price), out="runs/price/ppo", resume=True
    )
    for row in (run.metrics[0], run.metrics[-1]):
        print(f"step {row['step']}: {row['reward']:.0%} of the answers name the price, KL {row['kl']:.2f} nats")
    print(f"report: {run.report}")


if __name__ == "__main__":
    main()
