"""The methods, one file each. A new one is one file, one line here, and one test computed by hand."""

from accord.methods.dpo import DPO
from accord.methods.ppo import PPO
from accord.methods.pretrain import Pretrain
from accord.methods.reward import RewardModel
from accord.methods.sft import SFT

__all__ = ["DPO", "PPO", "SFT", "Pretrain", "RewardModel"]
