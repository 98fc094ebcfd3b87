"""Make a face dataset from identity vectors: every identity's vector is lifted to a good image by AttrOP, then
noise on the vector gives many images of the person (paper section 3.4).

    python image_generation.py --model_weights weights/vec2face_generator.pth --batch_size 5 --example 1 \\
        --start_end 0:10 --name test --center_feature center_feature_examples.npy

Several GPUs: put `torchrun --nproc_per_node=N` in the place of `python`. Killed, or more to do: run the same command
again.
"""

from utils.cli.command import command

from utils.cli.generation_flags import generation_parser
from utils.cli.model_flags import set_up_inference
from utils.generation.make_dataset import run_generation
from utils.runtime.distributed import join_world


@command
def main(argv=None):
    args = generation_parser("identity", __doc__).parse_args(argv)
    world = join_world()
    device, precision = set_up_inference(args, world.local_rank, deterministic=True)
    run_generation("identity", args, world, device, precision)


if __name__ == "__main__":
    main()
