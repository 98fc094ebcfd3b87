"""Make images of the people in reference photos: the FR feature of each photo plus noise is decoded.

    python image_generation_with_reference.py --image_file "path/of/the/image/file or folder" \\
        --model_weights weights/vec2face_generator.pth --batch_size 5 --example 10 --name images-of-references

Photos must be aligned 112x112 crops, or give --align. Killed, or more to do: run the same command again.
"""

from utils.cli.command import command

from utils.cli.generation_flags import generation_parser
from utils.cli.model_flags import set_up_inference
from utils.generation.make_dataset import run_generation
from utils.runtime.distributed import join_world


@command
def main(argv=None):
    args = generation_parser("reference", __doc__).parse_args(argv)
    world = join_world()
    device, precision = set_up_inference(args, world.local_rank, deterministic=True)
    run_generation("reference", args, world, device, precision)


if __name__ == "__main__":
    main()
