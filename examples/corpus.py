"""Short sounds with questions, as a stand-in for a corpus of one's own: `python ../corpus.py` writes `corpus/`."""

from earwitness.datamodules.corpora.sounds import build_sounds

if __name__ == "__main__":
    print(build_sounds("corpus", train=48, val=4, test=8, listening=4, reading=4, strong_share=0.5))
