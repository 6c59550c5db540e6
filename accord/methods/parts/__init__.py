"""What several methods are made of: rollouts, the losses of pairs, the steps of policy gradients."""
