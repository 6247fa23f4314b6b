// class: memory
export default (event: { data: { n: number; bad: boolean } }) => {
  const kept: string[][] = [];
  while (event.data.bad) {
    kept.push(new Array<string>(1000).fill("x"));
  }
  return event.data.n;
};
