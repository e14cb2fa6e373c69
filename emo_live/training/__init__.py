"""How the tiny model is made: data, the stages of training, export, evaluation. Needs the extra `train`."""
