"""The judge of the built-in world `figures`: what pictures of it are measured with."""

from lt.recipes.system import System

SYSTEM = System(
    about="The judge of the built-in figures: key points, attributes and features that pictures of them are measured with.",
    recipe="lt.recipes.judge.objective:RECIPE",
)
