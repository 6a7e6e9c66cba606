"""Settings of the generative methods; torch is not needed to read them."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from models.methods.settings import DecoderWidth, MethodSettings


class AutoencoderParams(MethodSettings):
    """Autoencoder (Hinton and Salakhutdinov 2006): rebuilds images from a narrow code."""

    views: ClassVar[int] = 1

    name: Literal["autoencoder"] = Field("autoencoder", description="The method.")
    code: PositiveInt = Field(30, description="Width of the code, far below the image's pixels.")
    decoder_width: DecoderWidth = 16


class DenoisingAutoencoderParams(MethodSettings):
    """Denoising autoencoder (Vincent et al. 2008): rebuilds clean images from corrupted ones."""

    views: ClassVar[int] = 1

    name: Literal["denoising-autoencoder"] = Field(
        "denoising-autoencoder", description="The method."
    )
    masked: float = Field(
        0.25, gt=0, lt=1, description="Share of the image's values that are set to 0."
    )
    decoder_width: DecoderWidth = 16


class VAEParams(MethodSettings):
    """VAE (Kingma and Welling 2014): codes are samples, and as if from a standard Gaussian."""

    views: ClassVar[int] = 1

    name: Literal["vae"] = Field("vae", description="The method.")
    latents: PositiveInt = Field(32, description="Width of the code.")
    beta: float = Field(
        1.0, ge=0, description="Weight of the divergence from the prior; 1 is the bound."
    )
    decoder_width: DecoderWidth = 16


class InpaintingParams(MethodSettings):
    """Inpainting (Pathak et al. 2016): fills in what was removed of an image."""

    views: ClassVar[int] = 1

    name: Literal["inpainting"] = Field("inpainting", description="The method.")
    region: Literal["blocks", "centre"] = Field(
        "blocks",
        description="What is removed: blocks at random places, or a quarter in the middle.",
    )
    blocks: PositiveInt = Field(
        4, description="Number of blocks, together a quarter of the image or less, as they overlap."
    )
    decoder_width: DecoderWidth = 16


class ColorizationParams(MethodSettings):
    """Colorization (Zhang et al. 2016): predicts the colours of an image in grey."""

    views: ClassVar[int] = 1
    takes_channels: ClassVar[int | None] = 3

    name: Literal["colorization"] = Field("colorization", description="The method.")
    bins: PositiveInt = Field(
        15, description="Steps of each of the two axes of chroma; odd, so that grey is a class."
    )
    head_width: PositiveInt = Field(64, description="Channels of the head's hidden map.")


class PixelCNNParams(MethodSettings):
    """PixelCNN decoder (van den Oord et al. 2016): predicts pixels from earlier ones."""

    views: ClassVar[int] = 1

    name: Literal["pixelcnn"] = Field("pixelcnn", description="The method.")
    side: PositiveInt = Field(
        16, description="Images are shrunk to at most this for the decoder, which is slow."
    )
    levels: int = Field(16, ge=2, le=256, description="Steps that a pixel's values are cut into.")
    width: PositiveInt = Field(16, description="Channels of the decoder.")
    layers: PositiveInt = Field(4, description="Gated layers after the first.")
    code: PositiveInt = Field(
        100, description="Width of the code that the decoder gets of the image."
    )
    alone: float = Field(
        0.25, gt=0, lt=1, description="Share of images of which the decoder gets no code."
    )
