"""Pictures of a trained model, and the one page that shows them.

    build(run)                                       evaluates, draws and writes report.html
    write_pictures(model, dataset, folder)           the pictures that suit the data
    write_report(run, evaluation, pictures)          the page alone

Single pictures are in `images` (grids of draws, temperatures, ways between images), `planes`
(densities, columns), `diagnostics` (round trip, latents) and `training`. All are PNG files.
"""

from steadyflow.report.build import build, load_evaluation, save_evaluation
from steadyflow.report.gallery import Picture, write_pictures
from steadyflow.report.mosaic import image_grid
from steadyflow.report.page import write_report

__all__ = [
    "Picture",
    "build",
    "image_grid",
    "load_evaluation",
    "save_evaluation",
    "write_pictures",
    "write_report",
]
