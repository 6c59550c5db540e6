"""The methods, one file each. A new one is one file, one line here, and one test computed by hand."""

from accord.methods.distill import Distill
from accord.methods.dpo import DPO
from accord.methods.grpo import GRPO
from accord.methods.ipo import IPO
from accord.methods.ipo_md import IPOMD
from accord.methods.kto import KTO
from accord.methods.nash_md import NashMD
from accord.methods.online_dpo import OnlineDPO
from accord.methods.ppo import PPO
from accord.methods.preference import PreferenceModel
from accord.methods.pretrain import Pretrain
from accord.methods.raft import RAFT
from accord.methods.reinforce import REINFORCE
from accord.methods.reward import RewardModel
from accord.methods.rloo import RLOO
from accord.methods.self_consistency import SelfConsistency
from accord.methods.sft import SFT
from accord.methods.star import STaR

__all__ = [
    "DPO",
    "GRPO",
    "IPO",
    "IPOMD",
    "KTO",
    "PPO",
    "RAFT",
    "REINFORCE",
    "RLOO",
    "SFT",
    "Distill",
    "NashMD",
    "OnlineDPO",
    "PreferenceModel",
    "Pretrain",
    "RewardModel",
    "STaR",
    "SelfConsistency",
]
